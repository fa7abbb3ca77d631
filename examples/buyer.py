"""Buys a page from seller.py: hands the payment to the seller, who sends it.

pip install ./sdk/python; python buyer.py URL MANDATE
"""

import os
import sys

import httpx

from stipend import Stipend, hand_over

url, mandate = sys.argv[1:3]
offer = httpx.get(url).json()
with Stipend(offer["relayer"], os.environ["STIPEND_PRIVATE_KEY"]) as wallet:
    signed = wallet.sign_payment(mandate, offer["payee"], offer["amount"], ref=offer["ref"])
headers = {"stipend-ref": offer["ref"], "stipend-payment": hand_over(signed)}
answer = httpx.get(url, headers=headers, timeout=60)
while answer.status_code == 503:  # Not known yet: the same payment again is never paid twice.
    answer = httpx.get(url, headers=headers, timeout=60)
print(answer.text)
