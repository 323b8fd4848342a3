"""Says how long a certificate counts, and what people should hear about it. The one clock of certificates is here, in UTC."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509

WARN_AT_MOST: Final = dt.timedelta(days=365)  # before its end: an authority's ten years are no reason to warn for three


def utc_now() -> dt.datetime:
    """Returns the wall clock's time with its time zone, as certificates have it."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Holds the time span within which a certificate counts."""

    begin: dt.datetime
    end: dt.datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """Returns the time span in which a certificate is valid."""
        return cls(certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    def has_expired(self, now: dt.datetime) -> bool:
        """Tells whether the end has passed at `now`, which carries a time zone."""
        return now > self.end

    def is_expiring(self, now: dt.datetime) -> bool:
        """Tells whether its last third has begun, or its end has passed."""
        return now > self.end - min((self.end - self.begin) / 3, WARN_AT_MOST)

    def expiry(self, now: dt.datetime) -> str:
        """Returns when it expires or expired, in words: "expires in 9 days (2026-01-31 12:00 UTC)"."""
        at = f"({self.end:%Y-%m-%d %H:%M} UTC)"
        if self.has_expired(now):
            return f"expired {_rough(now - self.end)} ago {at}"
        return f"expires in {_rough(self.end - now)} {at}"


def _rough(span: dt.timedelta) -> str:
    """Returns a span to the unit that counts."""
    for unit, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if (number := int(span.total_seconds() // seconds)) >= (1 if unit == "minute" else 2):
            return f"{number} {unit}s" if number > 1 else f"1 {unit}"
    return "less than a minute"
