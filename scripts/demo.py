"""One approval, many payments: the story of Stipend, with real processes on a real chain.

Everything that is told is checked, by reading the chain without any of Stipend's code. The exit code is not zero if
anything differs from what is told.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STIPEND = os.path.join(ROOT, "target", "debug", "stipend")
ALICE = "0x00000000000000000000000000000000000a11ce"
BOB = "0x0000000000000000000000000000000000000b0b"
MALLORY = "0x00000000000000000000000000000000000bad00"

# Selectors and topics of what is read from the chain, as Solidity's keccak256 gives them.
BALANCE_OF = "0x70a08231"
EVENTS = {
    "Opened": "Opened(bytes32,address,address,(address,address,address,uint64,uint64,uint64,uint32,uint40,uint40,uint40,bytes32,bytes32,bool))",
    "Spent": "Spent(bytes32,address,uint64,uint32,bytes32)",
    "Captured": "Captured(bytes32,address,uint64,uint32)",
    "Returned": "Returned(bytes32,address,uint64,uint64)",
    "Rolled": "Rolled(bytes32,bytes32,uint64)",
    "Refunded": "Refunded(bytes32,address,uint64,uint64,bytes32)",
}


class Differs(Exception):
    """Something is not as the story tells it."""


def check(condition, what):
    if not condition:
        raise Differs(what)


class Story:
    def __init__(self, quiet):
        self.quiet = quiet
        self.chapter = 0

    def tell(self, text=""):
        if not self.quiet:
            print(textwrap.fill(text, 100) if text else "", flush=True)

    def heading(self, text):
        self.chapter += 1
        if not self.quiet:
            bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
            print(f"\n{bold}{self.chapter}. {text}{plain}", flush=True)

    def show(self, text):
        if not self.quiet and text.strip():
            print(textwrap.indent(text.rstrip(), "    "), flush=True)


class Chain:
    """A node, asked in plain JSON-RPC."""

    def __init__(self, url, escrow, token):
        self.url, self.escrow, self.token = url, escrow, token

    def rpc(self, method, *params):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer = json.load(answer)
        check("result" in answer, f"{method}: {answer.get('error')}")
        return answer["result"]

    def call(self, to, data):
        # USDC's proxy answers everybody but its admin, and here that is who a call without sender comes from.
        return self.rpc("eth_call", {"from": ALICE, "to": to, "data": data}, "latest")

    def keccak(self, text):
        return self.rpc("web3_sha3", "0x" + text.encode().hex())

    def usdc(self, account):
        return int(self.call(self.token, BALANCE_OF + account[2:].lower().rjust(64, "0")), 16)

    def eth(self, account):
        return int(self.rpc("eth_getBalance", account, "latest"), 16)

    def height(self):
        return int(self.rpc("eth_blockNumber"), 16)

    def events(self, name):
        """The escrow's events of this name as (mandate, the data's 32-byte words as numbers)."""
        query = {"address": self.escrow, "fromBlock": "0x0", "toBlock": "latest", "topics": [self.keccak(EVENTS[name])]}
        for log in self.rpc("eth_getLogs", query):
            data = log["data"][2:]
            yield log["topics"][1], [int(data[at : at + 64], 16) for at in range(0, len(data), 64)]

    def left(self, mandate):
        """What the escrow holds for a mandate: (remaining, held)."""
        selector = self.keccak("mandateOf(bytes32)")[:10]
        words = self.call(self.escrow, selector + mandate[2:])[2:]
        return int(words[:64], 16), int(words[64:128], 16)


class Cli:
    """Runs the `stipend` command as somebody would in a terminal."""

    def __init__(self, story, stack):
        self.story = story
        self.environment = dict(
            os.environ, STIPEND_RELAYER_URL=stack["relayer"], STIPEND_RPC_URL=stack["rpc_url"],
            STIPEND_ISSUER_URL=stack["issuer"], STIPEND_ISSUER_API_KEY=stack["issuer_key"],
        )
        for name in ("STIPEND_PRIVATE_KEY", "STIPEND_PASSWORD"):
            self.environment.pop(name, None)

    def run(self, who, *words, refused=False):
        """Runs a command as `who`, shows it, and returns the last thing that it prints for programs."""
        done, shown = self.call(who, *words)
        expected = done.returncode != 0 if refused else done.returncode == 0
        check(expected, f"stipend {shown} exits with {done.returncode}\n{done.stdout}{done.stderr}")
        lines = (done.stderr if refused else done.stdout).strip().splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError):
            raise Differs(f"stipend {shown} prints no JSON:\n{done.stdout}{done.stderr}") from None

    def charge(self, card, amount, mcc):
        """Charges a card as a merchant does; returns what the terminal prints."""
        done, shown = self.call("agent", "merchant", "charge", "--card", card, "--amount", amount,
                                "--descriptor", "ADS INC", "--mcc", mcc, "--no-clear")
        check(done.stdout.strip(), f"stipend {shown} prints nothing:\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    def call(self, who, *words):
        shown = " ".join(f'"{word}"' if " " in word else word for word in words)
        shown = re.sub(r"(mand_[0-9a-f]{8})[0-9a-f]+", r"\1…", shown)
        self.story.show(f"{who}$ stipend {shown}")
        command = [STIPEND, *words, "--dev-account", who, "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        return done, shown


def usdc(units):
    """Base units as people write them."""
    return f"{units // 10**6}.{units % 10**6:06}".rstrip("0").ljust(len(str(units // 10**6)) + 3, "0")


def units(text):
    """A decimal string as base units, without a float."""
    whole, _, fraction = text.partition(".")
    return int(whole) * 10**6 + int(fraction.ljust(6, "0") or 0)


def chain_id_of(mandate):
    return "0x" + mandate.removeprefix("mand_")


def eventually(what, condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise Differs(f"after {seconds} s still not: {what}")


def play(story, stack):
    chain = Chain(stack["rpc_url"], stack["escrow"], stack["token"])
    cli = Cli(story, stack)
    operator, gasless = stack["operator"], stack["gasless_operator"]
    operator_before, gasless_before = chain.usdc(operator), chain.usdc(gasless)

    story.heading("The agent asks for a budget")
    story.tell("It says how much, what for and how long; everything else has a safe default.")
    request = cli.run(
        "agent", "mandate", "request", "--amount", "100.00", "--intent", "Automate marketing ops spend for the Q2 campaign",
        "--duration", "30d",
    )
    story.show(f"{request['id']}: {request['amount']} USDC for {request['duration']}, waits for an operator")

    story.heading("The operator approves it once, by signing a transaction")
    story.tell("The USDC moves into the escrow contract, under terms that nobody can change any more.")
    mandate = cli.run("operator", "mandate", "approve", request["id"], "--yes")
    first = mandate["id"]
    check(mandate["state"] == "open" and units(mandate["available"]) == units("100"), f"the mandate is {mandate}")
    check(operator_before - chain.usdc(operator) == units("100"), "the operator does not have exactly 100 USDC less")
    story.show(f"{first} is open; transaction {mandate['opened_tx']}")
    story.show(f"the operator's wallet: {usdc(operator_before)} → {usdc(chain.usdc(operator))} USDC")

    story.heading("A second, narrower mandate, approved by one message and without any ETH")
    story.tell("At most 2.00 in one payment, and only to Alice. This operator has no ETH at all: it signs one message, "
               "which the relayer sends.")
    check(chain.eth(gasless) == 0, "the second operator has ETH")
    request = cli.run(
        "agent", "mandate", "request", "--amount", "10.00", "--intent", "Alice's translations", "--duration", "7d",
        "--per-payment", "2.00", "--payee", ALICE,
    )
    mandate = cli.run("gasless-operator", "mandate", "approve", request["id"], "--gasless", "--yes")
    second = mandate["id"]
    check(mandate["state"] == "open" and gasless_before - chain.usdc(gasless) == units("10"), f"the mandate is {mandate}")
    check(chain.eth(gasless) == 0, "the second operator has ETH")
    story.show(f"{second} is open; transaction {mandate['opened_tx']}")

    story.heading("The agent pays three times, and nobody is asked")
    paid = []
    for who, to, amount in (("Alice", ALICE, "4.20"), ("Bob", BOB, "18.40"), ("Alice", ALICE, "0.000001")):
        payment = cli.run("agent", "pay", "--mandate", first, "--to", to, "--amount", amount)
        check(payment["state"] in ("mined", "settled"), f"the payment is {payment}")
        paid.append(payment)
        story.show(f"{amount} USDC to {who}: {payment['state']} in {payment['tx_hash']}")
    check(chain.usdc(ALICE) == units("4.200001") and chain.usdc(BOB) == units("18.40"), "the payees were not paid exactly")

    story.heading("What lies outside is refused, with the reason")
    for mandate_id, to, amount, code in (
        (second, MALLORY, "1.00", "payee_not_allowed"),
        (second, ALICE, "2.000001", "above_per_payment"),
        (first, BOB, "77.40", "insufficient_budget"),
    ):
        problem = cli.run("agent", "pay", "--mandate", mandate_id, "--to", to, "--amount", amount, refused=True)
        check(problem["code"] == code, f"refused with {problem}, not with {code}")
        story.show(f"refused: {problem['code']}: {problem['detail']}")
    check(chain.usdc(MALLORY) == 0, "Mallory was paid")

    story.heading("The same payment sent twice is paid once")
    same = ("pay", "--mandate", second, "--to", ALICE, "--amount", "1.50", "--nonce", "0", "--deadline", str(int(time.time()) + 3600))
    before = chain.usdc(ALICE)
    once, twice = cli.run("agent", *same), cli.run("agent", *same)
    check(once["id"] == twice["id"], "the second call made another payment")
    check(chain.usdc(ALICE) - before == units("1.50"), "Alice was not paid exactly once")
    story.show(f"both calls answer {once['id']}; Alice has {usdc(chain.usdc(ALICE) - before)} USDC more")

    story.heading("The agent's key alone, going straight to the chain, gets nothing")
    before = chain.usdc(MALLORY)
    answer = cli.run("agent", "pay", "--mandate", first, "--to", MALLORY, "--amount", "1.00", "--direct", refused=True)
    check(answer.get("code") == "not_submitter", f"refused with {answer}, not with not_submitter")
    check(chain.usdc(MALLORY) == before, "Mallory was paid")
    story.show(f"the contract refuses: {answer['code']}")

    story.heading("The operator revokes, and has the rest back")
    left = chain.left(chain_id_of(first))[0]
    before = chain.usdc(operator)
    revoked = cli.run("operator", "mandate", "revoke", first, "--yes")
    check(chain.usdc(operator) - before == left > 0, "the rest did not come back")
    story.show(f"{usdc(left)} USDC are back with the operator; transaction {revoked['tx_hash']}")
    eventually("the relayer has seen the end", lambda: quietly(cli, "agent", "mandate", "show", first)["state"] == "ended")
    problem = cli.run("agent", "pay", "--mandate", first, "--to", ALICE, "--amount", "1.00", refused=True)
    check(problem["code"] == "mandate_ended", f"refused with {problem}")
    story.show(f"the agent's next payment is refused: {problem['code']}")

    third = play_cards(story, chain, cli, stack)
    rolled_back = play_roll(story, chain, cli, stack, third)
    play_limits(story, chain, cli, stack)

    story.heading("Everything is in the trail")

    def settled():
        payments = quietly(cli, "agent", "payment", "list")["data"]
        return payments if all(payment["state"] == "settled" for payment in payments) else None

    final = eventually("every payment final", settled)
    check(len(final) == 6, f"{len(final)} payments instead of 6")
    trail = cli.run("agent", "audit")["data"]
    for entry in trail:
        subject = entry.get("payment") or entry.get("card") or entry.get("mandate") or entry.get("request")
        moment = time.strftime("%H:%M:%S", time.gmtime(entry["at"]))
        story.show(f"{entry['seq']:>3}  {moment}  {entry['type']:<19}  {subject[:16]}…  {entry.get('tx_hash', '')}")
    kinds = [entry["type"] for entry in trail]
    check(kinds.count("payment.settled") == 6 and kinds.count("payment.denied") == 7, f"the trail tells {kinds}")
    check(kinds.count("mandate.revoking") == 1 and kinds.count("mandate.refunded") == 1, f"the trail tells {kinds}")
    check(kinds.count("mandate.rolled") == 1, f"the trail tells {kinds}")
    check(kinds.count("card.authorized") == 1 and kinds.count("card.closed") == 2, f"the trail tells {kinds}")
    for payment in final:
        receipt = chain.rpc("eth_getTransactionReceipt", payment["tx_hash"])
        check(receipt and receipt["status"] == "0x1", f"{payment['id']} names a transaction that is not on chain")

    story.heading("The ledger and the chain agree to the last unit")

    def returned():
        books = quietly(cli, "agent", "mandate", "list")["data"]
        return books if sum(1 for book in books if units(book["returned"])) == 3 else None

    balance = eventually("the returns are final", returned)
    opened = {mandate: words[3] for mandate, words in chain.events("Opened")}
    check(len(opened) == 5, f"{len(opened)} mandates were opened")
    story.show(f"{'':<14}{'opened':>12} = {'paid':>12} + {'remaining':>12} + {'held':>12} + {'returned':>12} + {'carried':>12} − {'restored':>9}")
    total = 0
    for mandate_id, cap in opened.items():
        outflows = [*chain.events("Spent"), *chain.events("Captured")]
        paid_out = sum(words[0] for mandate, words in outflows if mandate == mandate_id)
        came_back = sum(words[0] + words[1] for mandate, words in chain.events("Returned") if mandate == mandate_id)
        remaining, held = chain.left(mandate_id)
        restored = sum(words[1] for mandate, words in chain.events("Refunded") if mandate == mandate_id)
        carried = sum(words[0] for mandate, words in chain.events("Rolled") if mandate == mandate_id)
        row = [cap, paid_out, remaining, held, came_back, carried, restored]
        story.show(f"{mandate_id[:12] + '…':<14}" + "{:>12} = {:>12} + {:>12} + {:>12} + {:>12} + {:>12} − {:>9}".format(*map(usdc, row)))
        check(paid_out + remaining + held + came_back + carried - restored == cap, f"the chain's own balances of {mandate_id} do not balance")
        book = next(book for book in balance if chain_id_of(book["id"]) == mandate_id)
        places = ("paid", "available", "held", "returned", "carried", "restored", "reserved")
        ledger = [units(book.get(name, "0.00")) for name in places]
        check(ledger == [paid_out, remaining, held, came_back, carried, restored, 0], f"the ledger says {book}, the chain {row}")
        total += remaining + held
    check(chain.usdc(stack["escrow"]) == total, "the escrow does not hold exactly what the mandates have left")
    spent_by_operator = opened[chain_id_of(first)] - left + opened[chain_id_of(third)] - rolled_back
    check(chain.usdc(operator) == operator_before - spent_by_operator + units("14"), "the operator's wallet differs")
    check(chain.usdc(gasless) == gasless_before - units("10") - units("14"), "the second operator's wallet differs")
    check(chain.usdc(stack["treasury"]) == units("18.40"), "the card program's treasury differs")
    story.show(f"the escrow holds {usdc(total)} USDC: exactly what is left. Ledger and chain agree.")


def play_cards(story, chain, cli, stack):
    """The second act: what can't be paid on chain is paid by card. Returns the mandate."""
    story.heading("A merchant takes only cards: a mandate for software shops (category 5734)")
    request = cli.run(
        "agent", "mandate", "request", "--amount", "60.00", "--intent", "Licenses for the team", "--duration", "30d",
        "--mcc", "5734",
    )
    mandate = cli.run("operator", "mandate", "approve", request["id"], "--yes")["id"]

    story.heading("A card for 25.00: its money is set aside on chain before the card exists")
    began = time.monotonic()
    card = cli.run("agent", "card", "create", "--amount", "25.00", "--mandate", mandate)
    check(card["state"] == "active", f"the card is {card}")
    check(chain.left(chain_id_of(mandate)) == (units("35"), units("25")), "25.00 are not held on chain")
    story.show(f"{card['id']} ending in {card['last_four']}, {time.monotonic() - began:.1f} s after it was asked for; "
               f"hold {card['hold_tx']}")

    story.heading("The merchant charges 18.40; a second charge is declined")
    approved = cli.charge(card["id"], "18.40", "5734")
    check(approved["result"] == "APPROVED", f"the terminal says {approved}")
    story.show(f"approved: {approved['amount']} USD at {approved['merchant']}")
    again = cli.charge(card["id"], "1.00", "5734")
    check(again["status"] == "DECLINED", f"the terminal says {again}")
    story.show(f"the second charge: {again['result']}")

    story.heading("The clearing is captured, and 6.60 is back in the mandate")
    cleared = cli.run("agent", "merchant", "clear", "--transaction", approved["transaction"])
    check((cleared["status"], cleared["cleared"]) == ("SETTLED", "18.40"), f"the terminal says {cleared}")
    closed = closed_card(cli, card["id"])
    check((closed["captured"], closed["released"]) == ("18.40", "6.60"), f"the card is {closed}")
    check(chain.left(chain_id_of(mandate)) == (units("41.60"), 0), "6.60 is not back in the mandate")
    check(chain.usdc(stack["treasury"]) == units("18.40"), "the treasury was not paid exactly")
    story.show(f"captured {closed['captured']}, released {closed['released']}; transaction {closed['settle_tx']}")

    story.heading("A merchant outside the mandate is declined, with the reason")
    card = cli.run("agent", "card", "create", "--amount", "20.00", "--mandate", mandate)
    declined = cli.charge(card["id"], "20.00", "7995")
    check(declined["result"] == "UNAUTHORIZED_MERCHANT", f"the terminal says {declined}")
    entries = quietly(cli, "agent", "audit", "--mandate", mandate)["data"]
    reasons = [entry["data"]["code"] for entry in entries if entry["type"] == "card.declined"]
    check("merchant_not_allowed" in reasons, f"the trail gives the reasons {reasons}")
    story.show(f"the merchant sees {declined['result']}; the trail says merchant_not_allowed (category 7995)")
    cli.run("agent", "card", "close", card["id"])
    closed = closed_card(cli, card["id"])
    check((closed["captured"], closed["released"]) == ("0.00", "20.00"), f"the card is {closed}")
    story.show("closed unused: its 20.00 are back in the mandate")
    return mandate


def play_roll(story, chain, cli, stack, mandate):
    """The operator changes its mind. Returns the base units that came back to it."""
    story.heading("Less will do: the operator replaces the mandate, and the difference comes back")
    story.tell("A mandate never changes. Another one takes its place and its money; only the difference moves.")
    before = chain.usdc(stack["operator"])
    rolled = cli.run("operator", "mandate", "resize", mandate, "--cap", "20.00", "--yes")
    check((rolled["carried"], rolled["pulled"], rolled["returned"]) == ("20.00", "0.00", "21.60"), f"the roll is {rolled}")
    check(chain.usdc(stack["operator"]) - before == units("21.60"), "the difference did not come back")
    check(chain.left(chain_id_of(mandate)) == (0, 0), "the old mandate still has something")
    check(chain.left(chain_id_of(rolled["mandate"])) == (units("20"), 0), "the new mandate does not have exactly 20.00")
    story.show(f"{rolled['carried']} USDC are carried over, {rolled['returned']} are back; transaction {rolled['tx_hash']}")
    problem = cli.run("agent", "pay", "--mandate", mandate, "--to", ALICE, "--amount", "1.00", refused=True)
    check(problem["code"] == "mandate_ended", f"refused with {problem}")
    story.show(f"a payment from the old mandate is refused: {problem['code']}")
    return units("21.60")


def play_limits(story, chain, cli, stack):
    """The third act: a limit per day, money that comes back, and an end by message."""
    story.heading("At most 20.00 in any day: what is above it is refused")
    shop = stack["operator"]
    request = cli.run(
        "agent", "mandate", "request", "--amount", "50.00", "--intent", "Daily deliveries", "--duration", "30d",
        "--window", "1d", "--window-cap", "20.00",
    )
    mandate = cli.run("gasless-operator", "mandate", "approve", request["id"], "--gasless", "--yes")["id"]
    payment = cli.run("agent", "pay", "--mandate", mandate, "--to", shop, "--amount", "15.00", "--wait", "settled")
    check(payment["state"] == "settled", f"the payment is {payment}")
    problem = cli.run("agent", "pay", "--mandate", mandate, "--to", shop, "--amount", "5.01", refused=True)
    check(problem["code"] == "window_exceeded", f"refused with {problem}")
    story.show(f"refused: {problem['code']}: {problem['detail']}")

    story.heading("The shop gives 6.00 back, and they can be spent again")
    story.tell("A refund gives no room back in the window: what was committed that day was committed.")
    before = chain.left(chain_id_of(mandate))[0]
    refund = cli.run("operator", "refund", "--mandate", mandate, "--amount", "6.00", "--yes")
    check(refund["restored"] == "6.00", f"the refund is {refund}")
    check(chain.left(chain_id_of(mandate))[0] - before == units("6"), "6.00 are not back in the mandate")
    story.show(f"{refund['restored']} USDC are the mandate's budget again; transaction {refund['tx_hash']}")
    problem = cli.run("agent", "pay", "--mandate", mandate, "--to", shop, "--amount", "5.01", refused=True)
    check(problem["code"] == "window_exceeded", f"refused with {problem}")
    cli.run("agent", "pay", "--mandate", mandate, "--to", shop, "--amount", "5.00", "--wait", "settled")

    story.heading("The operator ends it by one message, without ETH")
    gasless = stack["gasless_operator"]
    eventually("the refund is final", lambda: quietly(cli, "agent", "mandate", "show", mandate)["restored"] == "6.00")
    left, before = chain.left(chain_id_of(mandate))[0], chain.usdc(gasless)
    ended = cli.run("gasless-operator", "mandate", "revoke", mandate, "--gasless", "--yes")
    check(chain.eth(gasless) == 0, "the second operator has ETH")
    check(chain.usdc(gasless) - before == left == units("36"), "the rest did not come back")
    story.show(f"{usdc(left)} USDC are back with the operator; transaction {ended['tx_hash']}")


def closed_card(cli, card):
    def closed():
        found = quietly(cli, "agent", "card", "show", card)
        return found if found["state"] == "closed" else None

    return eventually(f"{card} is closed", closed)


def quietly(cli, who, *words):
    told, cli.story.quiet = cli.story.quiet, True
    try:
        return cli.run(who, *words)
    finally:
        cli.story.quiet = told


def start(directory):
    """Starts chain, contracts and relayer as one process tree; returns it and where everything is."""
    command = [STIPEND, "dev", "--json", "--port", "0", "--anvil-port", "0", "--issuer-port", "0", "--data", os.path.join(directory, "data")]
    log = open(os.path.join(directory, "dev.log"), "w")
    tree = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
    line = tree.stdout.readline()
    if not line:
        tree.wait()
        raise Differs("stipend dev did not start:\n" + open(log.name).read())
    return tree, json.loads(line)


def main():
    arguments = argparse.ArgumentParser(description="Plays the story of Stipend on this machine.")
    arguments.add_argument("--quiet", action="store_true", help="print only the result")
    story = Story(arguments.parse_args().quiet)

    directory = tempfile.mkdtemp(prefix="stipend-demo-")
    tree = None
    try:
        story.tell("Stipend gives an AI agent a budget instead of a wallet. An operator approves a mandate once; the agent "
                   "then pays by itself inside it; what lies outside is refused by contract and relayer; what is left "
                   "comes back. Here is the whole story, on a chain that runs on this machine (anvil), with test USDC.")
        tree, stack = start(directory)
        story.show(f"\nchain {stack['rpc_url']}, escrow {stack['escrow']}, relayer {stack['relayer']}")
        play(story, stack)
        print("\nThe demo: every step was as expected, and all balances agree.")
        return 0
    except (Differs, subprocess.TimeoutExpired, KeyError) as difference:
        print(f"\nThe demo differs from its story: {difference!r}", file=sys.stderr)
        return 1
    finally:
        if tree and tree.poll() is None:
            tree.send_signal(signal.SIGTERM)
            try:
                tree.wait(timeout=20)
            except subprocess.TimeoutExpired:
                tree.kill()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
