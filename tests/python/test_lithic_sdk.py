"""Lithic's own SDK, unmodified and with strict validation of every answer, drives `stipend issuer`.

What passes here passes because the vendor's types and the vendor's signature check say so: none of
it is our own reading of the API.
"""

import http.client
import http.server
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.parse
import uuid
from datetime import datetime, timezone

import lithic
from lithic.types import (
    CardAuthorizationApprovalRequestWebhookEvent,
    CardCreatedWebhookEvent,
    CardTransactionUpdatedWebhookEvent,
    CardUpdatedWebhookEvent,
)

KEY = "0ba1a9a0-7e57-4000-8000-000000000001"
EVENT_CLASSES = {
    "card.created": CardCreatedWebhookEvent,
    "card.updated": CardUpdatedWebhookEvent,
    "card_transaction.updated": CardTransactionUpdatedWebhookEvent,
}
TIMEOUT = 15


class Receiver(http.server.ThreadingHTTPServer):
    """Takes events at /events and real-time questions at /asa, and keeps what came in."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.events = queue.Queue()
        self.questions = queue.Queue()
        self.verdict = {"result": "APPROVED"}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        raw = self.rfile.read(int(self.headers["content-length"]))
        # The SDK looks headers up by their name in lower case.
        came = (raw, {name.lower(): value for name, value in self.headers.items()})
        answer = {}
        if self.path == "/asa":
            self.server.questions.put(came)
            answer = self.server.verdict
        else:
            self.server.events.put(came)
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class IssuerTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.log = open(os.path.join(self.directory.name, "issuer.log"), "w+")
        self.addCleanup(self.log.close)
        self.numbers = []
        self.start()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.server_close)
        self.addCleanup(self.receiver.shutdown)

    def start(self):
        binary = os.path.abspath(os.environ.get("STIPEND_BIN", "target/debug/stipend"))
        command = [binary, "--json", "issuer", "--port", "0", "--asa-limit-ms", "1000"]
        command += ["--retry-schedule-ms", "0,50,50", "--database", os.path.join(self.directory.name, "issuer.db")]
        # What a developer's shell sets must not change a test.
        environment = {"STIPEND_ISSUER_API_KEY": KEY, "RUST_LOG": "trace"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.addCleanup(self.process.stdout.close)
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)
        ready = json.loads(self.process.stdout.readline())
        self.assertNotIn("api_key", ready)
        self.base_url = ready["issuer"]
        self.client = lithic.Lithic(
            api_key=KEY, base_url=self.base_url, max_retries=0, _strict_response_validation=True
        )
        self.addCleanup(self.client.close)

    def tearDown(self):
        self.process.terminate()
        self.assertEqual(self.process.wait(TIMEOUT), 0, "it stops when it is told to")
        self.log.flush()
        self.log.seek(0)
        log = self.log.read()
        self.assertIn("answered", log)
        for secret in [KEY, "whsec_", *self.numbers]:
            self.assertNotIn(secret, log, "a secret is in the log")

    # What tests do again and again.

    def create(self, **more):
        terms = {"spend_limit": 2500, "spend_limit_duration": "FOREVER", "memo": "hold 1", **more}
        card = self.client.cards.create(
            type="SINGLE_USE", extra_headers={"Idempotency-Key": str(uuid.uuid4())}, **terms
        )
        self.numbers.append(card.pan)
        return card

    def authorize(self, card, amount, **more):
        answer = self.client.transactions.simulate_authorization(
            amount=amount, descriptor="COFFEE SHOP", pan=card.pan, **more
        )
        return self.client.transactions.retrieve(answer.token)

    def decline(self, card, amount, **more):
        with self.assertRaises(lithic.UnprocessableEntityError) as caught:
            self.authorize(card, amount, **more)
        return self.client.transactions.retrieve(caught.exception.body["token"])

    def register_responder(self):
        # Nothing is signed before the secret was fetched.
        self.asa_secret = self.client.auth_stream_enrollment.retrieve_secret().secret
        enrolled = self.client.responder_endpoints.create(
            type="AUTH_STREAM_ACCESS", url=self.receiver.url("/asa")
        )
        self.assertTrue(enrolled.enrolled)

    def subscribe(self):
        subscription = self.client.events.subscriptions.create(url=self.receiver.url("/events"))
        self.event_secret = self.client.events.subscriptions.retrieve_secret(subscription.token).secret
        return subscription

    def next_question(self):
        raw, headers = self.receiver.questions.get(timeout=TIMEOUT)
        question = self.client.webhooks.parse(raw, headers=headers, secret=self.asa_secret)
        # `parse` never raises on shape: what it does not know becomes another class.
        self.assertIs(type(question), CardAuthorizationApprovalRequestWebhookEvent)
        CardAuthorizationApprovalRequestWebhookEvent.model_validate(json.loads(raw))
        return question

    def next_events(self, count):
        events = [self.receiver.events.get(timeout=TIMEOUT) for _ in range(count)]
        return [self.parse_event(*event) for event in events]

    def parse_event(self, raw, headers):
        payload = json.loads(raw)
        expected = EVENT_CLASSES[payload["event_type"]]
        event = self.client.webhooks.parse(raw, headers=headers, secret=self.event_secret)
        self.assertIs(type(event), expected)
        expected.model_validate(payload)
        self.client.webhooks.unwrap(raw, headers, secret=self.event_secret)
        with self.assertRaises(Exception):
            self.client.webhooks.parse(raw + b" ", headers=headers, secret=self.event_secret)
        return event

    def mock(self, method, path, body):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.base_url).netloc)
        self.addCleanup(connection.close)
        headers = {"authorization": KEY, "content-type": "application/json"}
        connection.request(method, path, json.dumps(body), headers)
        response = connection.getresponse()
        self.assertLess(response.status, 300)
        return json.loads(response.read())

    def amounts(self, transaction):
        amounts = transaction.amounts
        return transaction.status, amounts.hold.amount, amounts.settlement.amount


class Cards(IssuerTest):
    def test_status_needs_no_key(self):
        stranger = lithic.Lithic(
            api_key="wrong", base_url=self.base_url, max_retries=0, _strict_response_validation=True
        )
        self.addCleanup(stranger.close)
        self.assertEqual(stranger.api_status().message, "OK")
        with self.assertRaises(lithic.AuthenticationError):
            stranger.cards.create(type="SINGLE_USE")

    def test_a_card_is_created_read_changed_and_closed_for_good(self):
        card = self.create(tags={"hold": "1", "mandate": "2"}, exp_month="12", exp_year=str(datetime.now().year + 1))
        self.assertEqual((len(card.pan), len(card.cvv), card.last_four), (16, 3, card.pan[-4:]))
        self.assertEqual((card.type, card.state, card.exp_month), ("SINGLE_USE", "OPEN", "12"))
        self.assertEqual(self.client.cards.retrieve(card.token), card)

        paused = self.client.cards.update(card.token, state="PAUSED", spend_limit=2600, memo="hold 2")
        self.assertEqual((paused.state, paused.spend_limit, paused.memo), ("PAUSED", 2600, "hold 2"))
        self.assertEqual(self.decline(card, 100).result, "CARD_PAUSED")
        closed = self.client.cards.update(card.token, state="CLOSED")
        self.assertEqual(closed.state, "CLOSED")
        with self.assertRaises(lithic.BadRequestError):
            self.client.cards.update(card.token, state="OPEN")
        self.assertEqual(self.decline(card, 100).result, "CARD_CLOSED")
        with self.assertRaises(lithic.NotFoundError):
            self.client.cards.retrieve(str(uuid.uuid4()))

    def test_an_idempotency_key_creates_one_card(self):
        key = {"Idempotency-Key": "one"}
        first = self.client.cards.create(type="SINGLE_USE", spend_limit=1, extra_headers=key)
        self.numbers.append(first.pan)
        self.assertEqual(self.client.cards.create(type="SINGLE_USE", spend_limit=1, extra_headers=key), first)
        patient = self.client.with_options(max_retries=2)
        with self.assertRaises(lithic.ConflictError) as caught:
            patient.cards.create(type="SINGLE_USE", spend_limit=2, extra_headers=key)
        # The SDK's own count: it was told not to try again.
        self.assertEqual(caught.exception.response.request.headers["x-stainless-retry-count"], "0")

    def test_a_lost_answer_is_got_by_the_same_key(self):
        self.mock("PATCH", "/_mock", {"cards": {"lose_create_answer": 1}})
        key = {"Idempotency-Key": "one"}
        with self.assertRaises(lithic.APIConnectionError):
            self.client.cards.create(type="SINGLE_USE", memo="hold 7", extra_headers=key)
        card = self.client.cards.create(type="SINGLE_USE", memo="hold 7", extra_headers=key)
        self.numbers.append(card.pan)
        self.assertEqual([found.token for found in self.client.cards.list(memo="hold 7")], [card.token])

    def test_lists_page_by_themselves(self):
        created = [self.create(memo=f"hold {number}").token for number in range(7)]
        listed = list(self.client.cards.list(page_size=3))
        self.assertEqual([card.token for card in listed], created[::-1])
        self.assertNotIn("pan", listed[0].to_dict())
        self.assertEqual([card.token for card in self.client.cards.list(memo="ld 4")], [created[4]])
        newer = self.client.cards.list(begin=listed[2].created)
        self.assertEqual([card.token for card in newer], created[:-3:-1])
        self.assertEqual(list(self.client.cards.list(state="CLOSED")), [])
        for card in created[:5]:
            self.authorize(self.client.cards.retrieve(card), 100)
        transactions = list(self.client.transactions.list(page_size=2, status="PENDING", result="APPROVED"))
        self.assertEqual([transaction.card_token for transaction in transactions], created[4::-1])
        self.assertEqual(len(list(self.client.transactions.list(card_token=created[0]))), 1)


class Purchases(IssuerTest):
    def test_an_approval_closes_the_card_and_clearings_settle_it(self):
        self.register_responder()
        self.subscribe()
        card = self.create(tags={"hold": "1"})
        transaction = self.authorize(card, 1840, mcc="5814", merchant_acceptor_id="M1", merchant_acceptor_city="BERLIN",
                                     merchant_acceptor_country="DEU")
        question = self.next_question()
        self.assertEqual((question.token, question.card.token), (transaction.token, card.token))
        self.assertEqual((question.amounts.cardholder.amount, question.amounts.hold.amount), (1840, 1840))
        self.assertEqual((question.merchant.mcc, question.merchant.country), ("5814", "DEU"))
        self.assertEqual((question.card.memo, question.card.tags), ("hold 1", {"hold": "1"}))
        self.assertEqual((question.status, question.cash_amount), ("AUTHORIZATION", 0))
        self.assertEqual(self.amounts(transaction), ("PENDING", -1840, 0))
        self.assertEqual(self.client.cards.retrieve(card.token).state, "CLOSED")

        again = self.decline(card, 100)
        self.assertEqual((again.status, again.result), ("DECLINED", "SINGLE_USE_RECHARGED"))
        self.assertEqual(again.events[0].detailed_results, ["SINGLE_USE_CARD_REATTEMPTED"])
        self.assertTrue(self.receiver.questions.empty())

        self.client.transactions.simulate_clearing(token=transaction.token, amount=1000)
        self.assertEqual(self.amounts(self.client.transactions.retrieve(transaction.token)), ("SETTLED", -840, -1000))
        self.client.transactions.simulate_clearing(token=transaction.token, amount=900)
        settled = self.client.transactions.retrieve(transaction.token)
        self.assertEqual(self.amounts(settled), ("SETTLED", 0, -1900))
        kinds = [(event.type, event.amount, event.effective_polarity) for event in settled.events]
        self.assertEqual(kinds, [("AUTHORIZATION", 1840, "DEBIT"), ("CLEARING", 1000, "DEBIT"), ("CLEARING", 900, "DEBIT")])
        self.assertEqual(self.client.cards.retrieve_spend_limits(card.token).available_spend_limit.forever, 600)

        # Created and closed; authorized, declined, cleared twice.
        events = self.next_events(6)
        counted = sorted(event.event_type for event in events)
        self.assertEqual(counted, ["card.created", "card.updated"] + ["card_transaction.updated"] * 4)
        closed = next(event for event in events if event.event_type == "card.updated")
        self.assertEqual((closed.state, closed.previous_fields), ("CLOSED", {"state": "OPEN"}))
        last = max((event for event in events if getattr(event, "events", None)), key=lambda event: len(event.events))
        self.assertEqual(self.amounts(last), ("SETTLED", 0, -1900))

    def test_the_program_declines(self):
        self.register_responder()
        card = self.create()
        for verdict, result, detail in [
            ({"result": "UNAUTHORIZED_MERCHANT"}, "UNAUTHORIZED_MERCHANT", "UNAUTHORIZED_MERCHANT"),
            ({"result": "VELOCITY_EXCEEDED"}, "USER_TRANSACTION_LIMIT", "CARD_SPEND_LIMIT_EXCEEDED"),
            ({"result": "AVS_INVALID"}, "DECLINED", "ADDRESS_INCORRECT"),
            ({"result": "OTHER"}, "DECLINED", "CUSTOM_ASA_RESULT"),
            ({"verdict": "yes"}, "DECLINED", "MALFORMED_ASA_RESPONSE"),
        ]:
            self.receiver.verdict = verdict
            declined = self.decline(card, 500)
            self.next_question()
            self.assertEqual((declined.result, declined.events[0].detailed_results), (result, [detail]))
            self.assertEqual(self.amounts(declined), ("DECLINED", 0, 0))
        self.receiver.verdict = {"result": "APPROVED"}
        self.authorize(card, 500)

    def test_a_program_that_does_not_answer_declines(self):
        self.register_responder()
        card = self.create()
        self.mock("PATCH", "/_mock", {"asa": {"absent": 1}})
        declined = self.decline(card, 500)
        self.assertEqual(declined.events[0].detailed_results, ["CUSTOMER_ASA_TIMEOUT"])
        self.assertEqual(declined.result, "UNKNOWN_HOST_TIMEOUT")
        self.assertTrue(self.receiver.questions.empty())
        status = self.client.responder_endpoints.check_status(type="AUTH_STREAM_ACCESS")
        self.assertEqual((status.enrolled, status.url), (True, self.receiver.url("/asa")))
        self.client.responder_endpoints.delete(type="AUTH_STREAM_ACCESS")
        self.authorize(card, 500)

    def test_a_part_is_approved_where_the_terminal_can_take_it(self):
        self.register_responder()
        self.receiver.verdict = {"result": "APPROVED", "approved_amount": 400}
        transaction = self.authorize(self.create(), 1000, partial_approval_capable=True)
        self.assertEqual(self.amounts(transaction), ("PENDING", -400, 0))

    def test_advice_void_and_expiry(self):
        advised = self.authorize(self.create(), 1000)
        self.client.transactions.simulate_authorization_advice(token=advised.token, amount=1200)
        self.assertEqual(self.amounts(self.client.transactions.retrieve(advised.token)), ("PENDING", -1200, 0))
        self.client.transactions.simulate_void(token=advised.token, amount=300)
        self.assertEqual(self.amounts(self.client.transactions.retrieve(advised.token)), ("PENDING", -900, 0))
        self.client.transactions.simulate_void(token=advised.token)
        self.assertEqual(self.amounts(self.client.transactions.retrieve(advised.token)), ("VOIDED", 0, 0))

        expired = self.authorize(self.create(), 1000)
        self.client.transactions.simulate_void(token=expired.token, type="AUTHORIZATION_EXPIRY")
        self.assertEqual(self.amounts(self.client.transactions.retrieve(expired.token)), ("EXPIRED", 0, 0))
        self.client.transactions.simulate_clearing(token=expired.token, amount=1000)
        self.assertEqual(self.amounts(self.client.transactions.retrieve(expired.token)), ("SETTLED", 0, -1000))

        partly = self.authorize(self.create(), 1000)
        self.client.transactions.simulate_clearing(token=partly.token, amount=600)
        with self.assertRaises(lithic.UnprocessableEntityError):
            self.client.transactions.simulate_void(token=partly.token)
        self.client.transactions.expire_authorization(partly.token)
        self.assertEqual(self.amounts(self.client.transactions.retrieve(partly.token)), ("SETTLED", 0, -600))

    def test_returns_single_messages_and_inquiries(self):
        card = self.create()
        inquiry = self.authorize(card, 0, status="BALANCE_INQUIRY")
        self.assertEqual(inquiry.events[0].type, "BALANCE_INQUIRY")
        self.assertEqual(self.client.cards.retrieve(card.token).state, "OPEN")
        paid = self.authorize(card, 700, status="FINANCIAL_AUTHORIZATION")
        self.assertEqual(self.amounts(paid), ("SETTLED", 0, -700))
        answer = self.client.transactions.simulate_return(amount=700, descriptor="COFFEE SHOP", pan=card.pan)
        back = self.client.transactions.retrieve(answer.token)
        self.assertEqual((self.amounts(back), back.events[0].effective_polarity), (("SETTLED", 0, 700), "CREDIT"))
        self.client.transactions.simulate_return_reversal(token=back.token)
        self.assertEqual(self.amounts(self.client.transactions.retrieve(back.token)), ("SETTLED", 0, 0))

    def test_another_currency(self):
        foreign = self.authorize(self.create(), 1100, merchant_amount=1000, merchant_currency="EUR")
        self.assertEqual((foreign.merchant_currency, foreign.amounts.merchant.amount), ("EUR", -1000))
        self.assertEqual(foreign.amounts.cardholder.conversion_rate, "1.100000")

    def test_a_clearing_by_force(self):
        self.subscribe()
        card = self.create()
        token = self.mock("POST", "/_mock/force_post", {"card_token": card.token, "amount": 900})["token"]
        self.assertEqual(self.amounts(self.client.transactions.retrieve(token)), ("SETTLED", 0, -900))
        self.assertEqual([event.event_type for event in self.next_events(2)].count("card_transaction.updated"), 1)


class Events(IssuerTest):
    def test_subscriptions_are_listed_changed_and_deleted(self):
        subscription = self.subscribe()
        self.assertTrue(subscription.token.startswith("ep_"))
        changed = self.client.events.subscriptions.update(
            subscription.token, url=self.receiver.url("/events"), event_types=["card.updated"], description="ours"
        )
        self.assertEqual((changed.event_types, changed.description), (["card.updated"], "ours"))
        self.assertEqual(list(self.client.events.subscriptions.list()), [changed])
        self.client.events.subscriptions.rotate_secret(subscription.token)
        self.assertNotEqual(
            self.client.events.subscriptions.retrieve_secret(subscription.token).secret, self.event_secret
        )
        card = self.create()
        self.client.cards.update(card.token, state="PAUSED")
        # The old secret goes on to sign, and card.created was not asked for.
        (event,) = self.next_events(1)
        self.assertEqual((event.event_type, event.state), ("card.updated", "PAUSED"))
        self.client.events.subscriptions.delete(subscription.token)
        with self.assertRaises(lithic.NotFoundError):
            self.client.events.subscriptions.retrieve(subscription.token)

    def test_events_are_listed_and_sent_again(self):
        subscription = self.subscribe()
        card = self.create()
        self.next_events(1)
        (event,) = self.client.events.list(with_content=True, event_types=["card.created", "card.updated"])
        self.assertEqual((event.event_type, event.payload["card_token"]), ("card.created", card.token))
        self.assertEqual(self.client.events.retrieve(event.token).payload, event.payload)
        self.client.events.event_subscriptions.resend(
            event_subscription_token=subscription.token, event_token=event.token
        )
        raw, headers = self.receiver.events.get(timeout=TIMEOUT)
        self.parse_event(raw, headers)
        self.assertEqual(headers["webhook-id"], event.token)
        self.client.events.subscriptions.recover(subscription.token)
        self.client.events.subscriptions.replay_missing(subscription.token, begin=datetime(2026, 1, 1, tzinfo=timezone.utc))
        # Nothing was missing: what comes next is new.
        later = self.create()
        (event,) = self.next_events(1)
        self.assertEqual(event.card_token, later.token)

    def test_a_restart_forgets_nothing(self):
        subscription = self.subscribe()
        card = self.create()
        transaction = self.authorize(card, 1000)
        self.next_events(3)
        self.process.kill()
        self.process.wait()
        self.start()
        self.assertEqual(self.client.cards.retrieve(card.token).pan, card.pan)
        self.assertEqual(self.client.events.subscriptions.retrieve(subscription.token), subscription)
        self.client.transactions.simulate_clearing(token=transaction.token)
        (event,) = self.next_events(1)
        self.assertEqual(self.amounts(event), ("SETTLED", 0, -1000))


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed - len(result.skipped)
    # In cargo's words, which scripts/test counts. A filter that matched nothing is no success.
    print(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed", flush=True)
    sys.exit(0 if passed and not failed else 1)
