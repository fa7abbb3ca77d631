"""A server that sells one page for USDC, and serves as soon as the relayer has signed for the payment.

pip install ./sdk/python; python seller.py PORT PAYEE
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from stipend import Payee, StipendError

PRICE = "0.10"
payee = Payee(os.environ.get("STIPEND_RELAYER_URL", "http://127.0.0.1:8420"), sys.argv[2])
unpaid: set[str] = set()  # What was asked for, by its ref. Keep it in a database, and let it expire.


class Shop(BaseHTTPRequestHandler):
    def do_GET(self):
        ref = self.headers.get("stipend-ref", "")
        if ref not in unpaid:
            unpaid.add(ref := "0x" + os.urandom(32).hex())
            return self.answer(402, {"payee": payee.address, "amount": PRICE, "ref": ref, "relayer": payee.relayer})
        unpaid.discard(ref)  # Of two requests with one payment, one is served.
        try:
            receipt = payee.collect(self.headers.get("stipend-payment", ""), PRICE, ref)
            self.answer(200, {"report": "All is well.", "payment": receipt.payment, "state": receipt.state})
        except StipendError as error:
            unpaid.add(ref)
            self.answer(503 if error.money_may_have_moved else 402, {"error": str(error)})

    def answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Shop)
print(f"http://127.0.0.1:{server.server_port}/report", flush=True)
server.serve_forever()
