"""The bytes of the audit trail, read as docs/reference/trail.md says, by libraries that know nothing of it."""

import json
import pathlib
import unittest

import rlp
from eth_utils import keccak

VECTORS = pathlib.Path(__file__).parents[2] / "core/vectors/trail.json"
NOTE, DECISION, STEP = 1, 2, 3


def number(field):
    return int.from_bytes(field, "big")


class Trail(unittest.TestCase):
    def setUp(self):
        vectors = json.loads(VECTORS.read_text())
        self.mandate = bytes.fromhex(vectors["mandate"].removeprefix("mand_"))
        self.entries = [(bytes.fromhex(entry["bytes"][2:]), entry["hash"]) for entry in vectors["entries"]]

    def fields(self, kind):
        return [rlp.decode(entry[1:]) for entry, _ in self.entries if entry[0] == kind]

    def test_each_hash_is_over_the_one_before_it_and_the_bytes(self):
        previous = self.mandate
        for entry, expected in self.entries:
            previous = keccak(previous + entry)
            self.assertEqual("0x" + previous.hex(), expected)
        self.assertEqual(len(self.entries), 5)

    def test_every_entry_is_a_type_and_a_canonical_list(self):
        for entry, _ in self.entries:
            self.assertEqual(entry[:1] + rlp.encode(rlp.decode(entry[1:], strict=True)), entry)

    def test_fields_come_in_the_order_of_the_document(self):
        ((at, text),) = self.fields(NOTE)
        self.assertEqual((number(at), json.loads(text)["type"]), (1_798_000_000, "mandate.opened"))
        accepted, refused = self.fields(DECISION)
        at, payment, nonce, payee, amount, deadline, ref, signature, metadata, inputs = accepted
        self.assertEqual(payment, [b"\x11" * 16])
        self.assertEqual([number(field) for field in (at, nonce, amount, deadline)], [1_798_000_001, 3, 4_200_000, 1_798_003_600])
        self.assertEqual([len(field) for field in (payee, ref, signature)], [20, 32, 65])
        self.assertEqual([text.decode() for text in metadata], ["order", "17", "to", "né"])
        rules, state, intent, available, next_nonce, *limits, window, gas = inputs
        self.assertEqual((number(rules), state, number(intent)), (1, b"open", 1))
        self.assertEqual([number(field) for field in (available, next_nonce, *limits)], [50_000_000, 3, 120, 86_400, 0])
        self.assertEqual([[number(field) for field in found] for found in window], [[1_250_000, 1]])
        self.assertEqual(gas, [])
        self.assertEqual((refused[1], number(refused[4])), ([], 60_000_000))
        mined, failed = self.fields(STEP)
        at, state, unmined, tx, block, reason, nonces = mined
        self.assertEqual((state, unmined, tx, reason), (b"mined", b"", [b"\x78" * 32], []))
        self.assertEqual((number(block[0][0]), block[0][1]), (13, b"\xb2" * 32))
        self.assertEqual([number(nonce) for nonce in nonces], [3, 200])
        self.assertEqual((failed[3], failed[4], failed[5]), ([], [], [b"deadline_passed"]))


if __name__ == "__main__":
    unittest.main()
