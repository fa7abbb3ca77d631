"""Called by scripts/gas, after a build.

Every figure is `gasUsed` of a mined transaction (21,000, calldata and cold slots included), from a payee who holds the
token already and a mandate that has paid before; or the difference of two such transactions, where a job says "added".
All addresses, amounts, nonces and times are fixed, so that the same bytecode gives the same figures everywhere. Ids and
signatures come from the type strings below, not from the contract.
"""

import argparse
import json
import math
import os
import sys
from typing import NamedTuple

from evm import ROOT, Chain, Contract, Unexpected, encode, word

SNAPSHOT = os.path.join(ROOT, "contracts", "gas-snapshot.json")
DOCUMENT = os.path.join(ROOT, "docs", "reference", "gas.md")

CHAIN_ID = 31_337
NOW = 1_800_000_000
DAY = 86_400
AMOUNT = 1_234_567
CAP = 1_000_000_000
ROWS = 100


def fields(type_string):
    """[(type, name)] of an EIP-712 type string."""
    return [tuple(field.split(" ")) for field in type_string[type_string.index("(") + 1:-1].split(",")]


def types(type_string):
    return "(" + ",".join(kind for kind, _ in fields(type_string)) + ")"


ZERO = "0x" + 40 * "0"

TERMS = ("Terms(address operator,address agent,address guardian,uint64 cap,uint64 perPayment,uint64 windowCap,"
         "uint32 window,uint40 start,uint40 expiry,uint40 captureEnd,bytes32 payees,bytes32 intent,bool refundsRestoreBudget)")
SPEND = "Spend(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,bytes32 ref)"
HOLD = "Hold(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,uint40 captureBy,bytes32 ref)"
RECEIVE = ("ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
           "bytes32 nonce)")
ROLL = "Roll(bytes32 from,bytes32 to,uint64 maxPull)"
TRANSFER = ("TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,"
            "bytes32 nonce)")
DOMAIN = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"


PAYMENT = "(address,uint64,uint32,uint40,bytes32,bytes32,bytes32)"
HELD = f"({PAYMENT},uint40)"

EVENTS = {
    "Opened": f"Opened(bytes32,address,address,{types(TERMS)})",
    "Spent": "Spent(bytes32,address,uint64,uint32,bytes32)",
    "Skipped": "Skipped(bytes32,uint32,uint8)",
    "Held": "Held(bytes32,address,uint64,uint32,uint40,bytes32)",
    "Captured": "Captured(bytes32,address,uint64,uint32)",
    "Released": "Released(bytes32,uint64,uint32)",
    "Revoked": "Revoked(bytes32,address)",
    "Returned": "Returned(bytes32,address,uint64,uint64)",
    "Rolled": "Rolled(bytes32,bytes32,uint64)",
}

MISSED = "MISSED"


class Job(NamedTuple):
    name: str
    target: int | None = None
    aim: int | None = None
    floor: int | None = None
    rows: int = 1

    def ours(self, gas):
        """Per row, rounded up."""
        return math.ceil(gas[self.name] / self.rows)

    def verdict(self, gas):
        if self.target is None:
            return ""
        if self.ours(gas) > self.target:
            return MISSED
        return "aim met" if self.aim and self.ours(gas) <= self.aim else "target met"


JOBS = [
    Job("open with one signature", 126_000, 123_000, 121_000),
    Job("spend, submitter checked", 71_500, 69_000, 66_300),
    Job("spend, guardian zero", 69_000, 67_000, 63_900),
    Job("rolling window, added to a spend", 7_300, None, 5_000),
    Job("rolling window, added to a row", 2_000, None, 0, ROWS),
    Job("proof among 16 payees, added to a spend", 4_600, None, 2_300),
    Job("proof among 16 payees, added to a row", 3_900, None, 2_300, ROWS),
    Job("settle, 100 payees, one mandate, per payment", 22_600, 21_500, 18_600, ROWS),
    Job("settle, 100 payees, 100 mandates, per payment", 34_600, 32_500, 28_000, ROWS),
    Job("settle, one payee (netted), per payment", 11_600, 10_500, 8_400, ROWS),
    Job("settleTo, one payee, 100 mandates, per payment", 22_300, None, None, ROWS),
    Job("a row that is refused: bad signature", 10_000),
    Job("a row that the token refuses: payee blacklisted"),
    Job("hold + capture (closing)", 135_500, 131_000, 126_000),
    Job("release", 36_600),
    Job("revoke", 61_000),
    Job("sweep", 59_500),
    Job("roll, no money moved", 67_000),
    Job("roll by message, with a pull", 104_000),
    Job("runtime code, bytes", 22_500),

    Job("purse: create", 150_000, 95_000),
    Job("purse: top-up, its first", 89_000),
    Job("purse: top-up", 71_500),
    Job("purse: payment, by the seller", 116_000),
    Job("purse: payment, by the seller, proof among 16", 121_000),
    Job("purse: giveBack", 80_000),
    Job("purse: sweep", 60_000),
]


# ---------------------------------------------------------------- the escrow and its people

class World:
    """An escrow, its token, and everybody who deals with it."""

    def __init__(self, chain):
        self.chain, self.mandates = chain, 0
        _, self.operator, self.agent, self.guardian, self.submitter, self.stranger = chain.accounts[:6]
        self.token = Contract(chain, "MockUSDC")
        self.usdc = Contract(chain, "MockUSDCProxy", self.token.address).address
        self.escrow = Contract(chain, "MandateEscrow", self.usdc)
        self.domain = {"name": "MandateEscrow", "version": "1", "verifyingContract": self.escrow.address}

        self.payees = ["0x" + self.hash(f"payee {index}")[12:].hex() for index in range(ROWS)]
        for holder in [*self.payees, self.operator]:
            self.ask_token("mint(address,uint256)", holder, CAP * 1_000)
        self.ask_token("approve(address,uint256)", self.escrow.address, 2**256 - 1)
        self.escrow.call(self.guardian, "setSubmitter(address,bool)", self.submitter, True)

    def ask_token(self, signature, *arguments):
        self.token.call(self.operator, signature, *arguments, to=self.usdc)

    # ------------------------------------------------------------ what they sign

    def hash(self, text):
        return self.chain.keccak(text.encode())

    def hash_struct(self, type_string, values):
        return self.chain.keccak(self.hash(type_string) + encode(values))

    def id_of(self, terms):
        domain = (self.hash(self.domain["name"]), self.hash(self.domain["version"]), CHAIN_ID, self.escrow.address)
        return self.chain.keccak(b"\x19\x01" + self.hash_struct(DOMAIN, domain) + self.hash_struct(TERMS, terms))

    def sign(self, signer, domain, type_string, values):
        """65 bytes: r, s, v."""
        name, members = type_string[:type_string.index("(")], fields(type_string)
        texts = ["0x" + value.hex() if isinstance(value, bytes) else str(value) for value in values]
        typed = {
            "types": {kind[:kind.index("(")]: [{"type": type_, "name": member} for type_, member in fields(kind)]
                      for kind in (DOMAIN, type_string)},
            "primaryType": name,
            "domain": domain | {"chainId": CHAIN_ID},
            "message": {member: text for (_, member), text in zip(members, texts)},
        }
        return bytes.fromhex(self.chain.rpc("eth_signTypedData_v4", signer, typed)[2:])

    def agent_signs(self, type_string, values):
        """By ERC-2098: r, and s with the parity of v in its highest bit."""
        signature = self.sign(self.agent, self.domain, type_string, values)
        return signature[:32], word(int.from_bytes(signature[32:64]) | (signature[64] - 27) << 255)

    def terms(self, **changes):
        self.mandates += 1
        values = {
            "operator": self.operator, "agent": self.agent, "guardian": self.guardian,
            "cap": CAP, "perPayment": 0, "windowCap": 0, "window": 0,
            "start": NOW - DAY, "expiry": NOW + 30 * DAY, "captureEnd": NOW + 70 * DAY,
            "payees": bytes(32), "intent": self.hash(f"intent {self.mandates}"), "refundsRestoreBudget": False,
        }
        return tuple((values | changes)[name] for _, name in fields(TERMS))

    def payment(self, terms, nonce, payee):
        ref = self.hash(f"ref {nonce}")
        return (payee, AMOUNT, nonce, NOW + DAY, ref) + self.agent_signs(
            SPEND, (self.id_of(terms), payee, AMOUNT, nonce, NOW + DAY, ref))

    def payments(self, terms, payees):
        """One to each, by the nonces from 1."""
        return [self.payment(terms, nonce, payee) for nonce, payee in enumerate(payees, 1)]

    def hold(self, terms, nonce, payee):
        ref, capture_by = self.hash(f"ref {nonce}"), NOW + DAY
        r, vs = self.agent_signs(HOLD, (self.id_of(terms), payee, AMOUNT, nonce, NOW + DAY, capture_by, ref))
        return ((payee, AMOUNT, nonce, NOW + DAY, ref, r, vs), capture_by)

    # ------------------------------------------------------------ what they send

    def escrowed(self, sender, verb, *arguments, **events):
        """The gas of a call to the escrow, which must cause exactly these events of the escrow's."""
        receipt = self.escrow.call(sender, verb, *arguments)
        topics = [log["topics"][0] for log in receipt["logs"] if log["address"] == self.escrow.address]
        expected = [topic for name, count in events.items() for topic in ["0x" + self.hash(EVENTS[name]).hex()] * count]
        if sorted(topics) != sorted(expected):
            raise Unexpected(f"{verb[:verb.index('(')]} caused {len(topics)} events, not {events}")
        return int(receipt["gasUsed"], 16)

    def open(self, **changes):
        """The terms of a mandate that is open."""
        terms = self.terms(**changes)
        self.escrow.call(self.operator, f"open({types(TERMS)})", terms)
        return terms

    def open_used(self, **changes):
        """The terms of a mandate that has paid once, by nonce 0."""
        terms = self.open(**changes)
        self.spend(terms, self.payment(terms, 0, self.payees[0]))
        return terms

    def spend(self, terms, payment, proof=None):
        arguments, kinds = ((), "") if proof is None else ((proof, bytearray()), ",bytes32[],bytes")
        verb = f"spend({types(TERMS)},{PAYMENT}{kinds})"
        return self.escrowed(self.submitter, verb, terms, payment, *arguments, Spent=1)

    def settle_to(self, payee, rows):
        verb = f"settleTo(address,({types(TERMS)},{PAYMENT})[],bytes32[][],bytes[])"
        return self.escrowed(self.submitter, verb, payee, rows, [], [], Spent=len(rows))

    def settle(self, groups, proofs=(), skipped=0):
        verb = f"settle(({types(TERMS)},{PAYMENT}[])[],bytes32[][],bytes[])"
        rows = sum(len(payments) for _, payments in groups)
        events = {"Spent": rows - skipped, "Skipped": skipped}
        return self.escrowed(self.submitter, verb, groups, list(proofs), [], **events)


# ---------------------------------------------------------------- jobs

def open_with_one_signature(world):
    world.open_used()
    terms, valid_before = world.terms(), NOW + DAY
    usdc = {"name": "USD Coin", "version": "2", "verifyingContract": world.usdc}
    values = (world.operator, world.escrow.address, CAP, 0, valid_before, world.id_of(terms))
    signature = bytearray(world.sign(world.operator, usdc, RECEIVE, values))
    verb = f"openWithAuthorization({types(TERMS)},uint256,uint256,bytes)"
    yield "open with one signature", world.escrowed(world.submitter, verb, terms, 0, valid_before, signature, Opened=1)


def spend(world):
    for name, guardian in [("submitter checked", world.guardian), ("guardian zero", ZERO)]:
        terms = world.open_used(guardian=guardian)
        yield f"spend, {name}", world.spend(terms, world.payment(terms, 1, world.payees[1]))


def added(world, what, terms, proofs=None):
    """What a limit costs: its mandate, and one like it without a limit, make the same payments to 16 payees."""
    leaves, free = [row % 16 for row in range(ROWS)], world.open_used()
    rows, free_rows = (world.payments(mandate, [world.payees[leaf] for leaf in leaves]) for mandate in (terms, free))
    batch = world.settle([(terms, rows)], [proofs[leaf] for leaf in leaves] if proofs else [])
    yield f"{what}, added to a row", batch - world.settle([(free, free_rows)])

    last, free_last = (world.payment(mandate, ROWS + 1, world.payees[1]) for mandate in (terms, free))
    yield f"{what}, added to a spend", world.spend(terms, last, proofs and proofs[1]) - world.spend(free, free_last)


def rolling_window(world):
    return added(world, "rolling window", world.open_used(window=DAY, windowCap=CAP // 2))


def tree(world, payees):
    """The root of a power of two of payees, and the proof of each."""
    layers = [[world.chain.keccak(world.chain.keccak(word(payee))) for payee in payees]]
    while len(layers[-1]) > 1:
        pairs = zip(layers[-1][::2], layers[-1][1::2])
        layers.append([world.chain.keccak(min(pair) + max(pair)) for pair in pairs])
    proofs = [[layer[leaf >> height ^ 1] for height, layer in enumerate(layers[:-1])] for leaf in range(len(payees))]
    return layers[-1][0], proofs


def allowed_payees(world):
    root, proofs = tree(world, world.payees[:16])
    terms = world.open(payees=root)
    world.spend(terms, world.payment(terms, 0, world.payees[0]), proofs[0])
    return added(world, "proof among 16 payees", terms, proofs)


def settle(world):
    terms = world.open_used()
    yield "settle, 100 payees, one mandate, per payment", world.settle([(terms, world.payments(terms, world.payees))])

    mandates = [world.open_used() for _ in range(ROWS)]
    groups = [(terms, world.payments(terms, [payee])) for terms, payee in zip(mandates, world.payees)]
    yield "settle, 100 payees, 100 mandates, per payment", world.settle(groups)

    terms = world.open_used()
    netted = world.payments(terms, [world.payees[1]] * ROWS)
    yield "settle, one payee (netted), per payment", world.settle([(terms, netted)])

    mandates, payee = [world.open_used() for _ in range(ROWS)], world.payees[1]
    rows = [(terms, world.payment(terms, 1, payee)) for terms in mandates]
    yield "settleTo, one payee, 100 mandates, per payment", world.settle_to(payee, rows)


def refused_rows(world):
    """What one more row costs a batch, if it does not pass."""
    terms = world.open_used()
    good = [world.payment(terms, nonce, world.payees[1]) for nonce in (1, 2, 3)]
    bad = world.payment(terms, 4, world.operator)
    without = world.settle([(terms, good[:1])])

    forged = bad[:-2] + good[0][-2:]
    yield "a row that is refused: bad signature", world.settle([(terms, [good[1], forged])], skipped=1) - without

    world.ask_token("blacklist(address)", world.operator)
    refused = world.settle([(terms, [good[2], bad])], skipped=1)
    yield "a row that the token refuses: payee blacklisted", refused - without
    world.ask_token("unBlacklist(address)", world.operator)


def holds(world):
    terms = world.open_used()
    hold_verb, payee = f"hold({types(TERMS)},{HELD})", world.payees[1]
    held = world.escrowed(world.submitter, hold_verb, terms, world.hold(terms, 1, payee), Held=1)
    capture_verb = f"capture({types(TERMS)},uint32,uint64,uint64,bool)"
    captured = world.escrowed(world.submitter, capture_verb, terms, 1, AMOUNT, AMOUNT - 1, True, Captured=1, Released=1)
    yield "hold + capture (closing)", held + captured

    world.escrowed(world.submitter, hold_verb, terms, world.hold(terms, 2, payee), Held=1)
    yield "release", world.escrowed(world.submitter, f"release({types(TERMS)},uint32)", terms, 2, Released=1)


def rolls(world):
    verb, old = f"roll({types(TERMS)},{types(TERMS)},uint64,bytes)", world.open_used()
    new = world.terms(cap=CAP - AMOUNT, expiry=NOW + 60 * DAY, captureEnd=NOW + 70 * DAY)
    yield "roll, no money moved", world.escrowed(world.operator, verb, old, new, 0, bytearray(), Opened=1, Rolled=1)

    old, new = world.open_used(), world.terms(cap=CAP + AMOUNT)
    world.ask_token("approve(address,uint256)", world.escrow.address, 2 * AMOUNT)
    message = (world.id_of(old), world.id_of(new), 2 * AMOUNT)
    signature = bytearray(world.sign(world.operator, world.domain, ROLL, message))
    gas = world.escrowed(world.stranger, verb, old, new, 2 * AMOUNT, signature, Opened=1, Rolled=1)
    world.ask_token("approve(address,uint256)", world.escrow.address, 2**256 - 1)
    yield "roll by message, with a pull", gas


def ends(world):
    terms = world.open_used()
    yield "revoke", world.escrowed(world.operator, f"revoke({types(TERMS)})", terms, Revoked=1, Returned=1)

    terms = world.open_used()
    world.chain.rpc("evm_setNextBlockTimestamp", NOW + 30 * DAY)
    yield "sweep", world.escrowed(world.stranger, f"sweep({types(TERMS)})", terms, Returned=1)


# ---------------------------------------------------------------- purses

class Purse:
    """The purse of a mandate that has paid it twice. Its payees are anybody, or a tree of which it is the last leaf."""

    def __init__(self, world, factory, payees=()):
        self.world = world
        terms = world.terms(refundsRestoreBudget=True, perPayment=CAP // 10)
        self.address = purse_of(world, factory, terms)
        self.root, self.proofs = tree(world, [*payees, self.address]) if payees else (bytes(32), None)
        index = [name for _, name in fields(TERMS)].index("payees")
        self.terms = (*terms[:index], self.root, *terms[index + 1:])
        world.escrow.call(world.operator, f"open({types(TERMS)})", self.terms)
        world.spend(self.terms, world.payment(self.terms, 0, world.payees[0]), self.proofs and self.proofs[0])
        self.creation = int(factory.call(world.submitter, f"create({types(TERMS)})", self.terms)["gasUsed"], 16)
        self.top_ups = [world.spend(self.terms, world.payment(self.terms, nonce, self.address),
                                    self.proofs and self.proofs[-1]) for nonce in (1, 2)]

    def pay(self, leaf, nonce):
        """The gas of the seller's transaction, to a payee who has USDC, of half of a top-up."""
        world, payee = self.world, self.world.payees[leaf]
        values = (self.address, payee, AMOUNT // 2, 0, NOW + DAY, world.hash(f"nonce {nonce}"))
        usdc = {"name": "USD Coin", "version": "2", "verifyingContract": world.usdc}
        proof = self.proofs[leaf] if self.proofs else []
        signature = encode(values[1:]) + b"".join(
            compact(world.sign(signer, usdc, TRANSFER, values)) for signer in (world.agent, world.submitter))
        signature += self.root + (bytes([len(proof)]) + b"".join(proof) if proof else b"")
        verb = f"transferWithAuthorization({types(TRANSFER)[1:-1]},bytes)"
        receipt = world.token.call(world.stranger, verb, *values, bytearray(signature), to=world.usdc)
        return int(receipt["gasUsed"], 16)

    def call(self, sender, verb, *arguments):
        return int(self.world.purse_code.call(sender, verb, *arguments, to=self.address)["gasUsed"], 16)


def compact(signature):
    """By ERC-2098, from 65 bytes."""
    return signature[:32] + word(int.from_bytes(signature[32:64]) | (signature[64] - 27) << 255)


def purse_of(world, factory, terms):
    data = bytes.fromhex(factory.selectors[f"purseOf({types(TERMS)})"]) + encode(terms)
    answer = world.chain.rpc("eth_call", {"to": factory.address, "data": "0x" + data.hex()}, "latest")
    return "0x" + answer[-40:]


def purses(world):
    factory = Contract(world.chain, "MandatePurseFactory", world.escrow.address)
    world.purse_code = Contract(world.chain, "MandatePurse", world.escrow.address)

    purse = Purse(world, factory)
    yield "purse: create", purse.creation
    yield "purse: top-up, its first", purse.top_ups[0]
    yield "purse: top-up", purse.top_ups[1]
    yield "purse: payment, by the seller", purse.pay(1, 0)
    yield "purse: giveBack", purse.call(
        world.submitter, "giveBack(bytes32,uint64,bytes32)", purse.root, AMOUNT // 2, world.hash("back"))

    listed = Purse(world, factory, world.payees[:15])
    yield "purse: payment, by the seller, proof among 16", listed.pay(1, 1)
    world.escrow.call(world.operator, f"revoke({types(TERMS)})", listed.terms)
    yield "purse: sweep", listed.call(world.stranger, "sweep(bytes32)", listed.root)


def measure(world):
    gas = {}
    jobs = (open_with_one_signature, spend, rolling_window, allowed_payees, settle, refused_rows, holds, purses, rolls, ends)
    for job in jobs:
        gas |= dict(job(world))
    code = world.chain.rpc("eth_getCode", world.escrow.address, "latest")
    return gas | {"runtime code, bytes": len(code) // 2 - 1}


# ---------------------------------------------------------------- report

def table(gas):
    row = "{:<50} {:>8} {:>8} {:>8} {:>8}  {}".format
    yield row("job", "ours", "target", "aim", "floor", "").rstrip()
    for job in JOBS:
        figures = (f"{figure:,}" if figure else "" for figure in (job.ours(gas), job.target, job.aim, job.floor))
        yield row(job.name, *figures, job.verdict(gas)).rstrip()


def read(path):
    with open(path) as file:
        return file.read()


def with_table(document, gas):
    """The document, with this table in its only code block of text."""
    before, _, rest = document.partition("```text\n")
    return before + "```text\n" + "\n".join(table(gas)) + "\n```" + rest.partition("```")[2]


def update(gas):
    document = with_table(read(DOCUMENT), gas)
    for path, text in [(SNAPSHOT, json.dumps(gas, indent=2) + "\n"), (DOCUMENT, document)]:
        with open(path, "w") as file:
            file.write(text)


def differences(gas):
    """From what is committed, as lines."""
    known = json.loads(read(SNAPSHOT))
    for name in dict.fromkeys([*known, *gas]):
        if known.get(name) != gas.get(name):
            yield f"{name}: {known.get(name)} is committed, {gas.get(name)} measured"
    if with_table(read(DOCUMENT), gas) != read(DOCUMENT):
        yield "docs/reference/gas.md shows another table"


def main():
    arguments = argparse.ArgumentParser(description="What every job costs on chain, beside its target.")
    arguments.add_argument("--json", action="store_true", help="print [{job, gas, target, aim}]")
    mode = arguments.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="also fail if the figures are not the committed ones")
    mode.add_argument("--update", action="store_true", help="write the figures, and the table in docs/reference/gas.md")
    mode.add_argument("--committed", action="store_true", help="the committed figures, without a chain or a build")
    arguments = arguments.parse_args()

    if arguments.committed:
        with open(SNAPSHOT, encoding="utf-8") as file:
            gas = json.load(file)
    else:
        chain = Chain(CHAIN_ID, NOW)
        try:
            gas = measure(World(chain))
        finally:
            chain.close()

    if arguments.json:
        jobs = [{"job": job.name, "gas": job.ours(gas), "target": job.target, "aim": job.aim} for job in JOBS]
        print(json.dumps(jobs, indent=2))
    else:
        print("\n".join(table(gas)))
    if arguments.update:
        update(gas)
    changed = list(differences(gas)) if arguments.check else []
    for difference in changed:
        print(difference, file=sys.stderr)
    if changed:
        print("gas changed: if that is meant, run scripts/gas --update and commit what it writes", file=sys.stderr)
    missed = [job for job in JOBS if job.verdict(gas) == MISSED]
    for job in missed:
        print(f"target missed: {job.name}", file=sys.stderr)
    return 1 if changed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
