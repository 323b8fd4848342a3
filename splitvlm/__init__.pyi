from splitvlm.client import connect as connect
from splitvlm.client import connect_async as connect_async
from splitvlm.client.in_process import local as local

CIPHER_SUITES: str
TLS_1_2_IS_OFF: bool
