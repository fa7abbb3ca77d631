"""Let an agent spend USDC within a mandate that a person approved."""

from .client import AsyncStipend, Stipend
from .errors import InvalidInput, Refused, StipendError, Unknown, Unreachable
from .models import AuditEntry, Card, CardSecrets, Explanation, Mandate, MandateRequest, Page, Payment
from .payee import Payee, Receipt, hand_over

__all__ = [
    "AsyncStipend",
    "AuditEntry",
    "Card",
    "CardSecrets",
    "Explanation",
    "InvalidInput",
    "Mandate",
    "MandateRequest",
    "Page",
    "Payee",
    "Payment",
    "Receipt",
    "Refused",
    "Stipend",
    "StipendError",
    "Unknown",
    "Unreachable",
    "hand_over",
]
