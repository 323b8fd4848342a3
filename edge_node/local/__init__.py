"""Serves applications of this machine: gRPC today. A further protocol is one more file here, in front of the same answerer."""
