// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Mandate, Payment, Reason, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";

/// @notice I3: a nonce pays at most once. The window is 88 wide and moves only when a nonce above it arrives.
contract NoncesTest is EscrowTest {
    uint32 private constant MAX = type(uint32).max;

    Terms private terms;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        terms.cap = type(uint64).max;
        id = _open(terms);
    }

    function _use(uint32 nonce) private {
        _spend(terms, _payment(terms, 1, nonce));
    }

    function _assertWindow(uint32 base, uint88 bits) private view {
        Mandate memory mandate = escrow.mandateOf(id);
        assertEq(mandate.nonceBase, base, "base");
        assertEq(mandate.nonceBits, bits, "bits");
    }

    function _assertReason(uint32 nonce, Reason reason) private view {
        assertEq(_canSpend(terms, _payment(terms, 1, nonce)), reason);
    }

    function test_paysOnce(uint32 nonce) public {
        _use(nonce);
        _assertRefused(terms, _payment(terms, 1, nonce), Reason.NonceUsed);
        _assertRefused(terms, _paymentTo(terms, stranger, 2, nonce), Reason.NonceUsed);
    }

    function test_windowStays_upToItsLastNonce() public {
        _use(0);
        _assertWindow(0, 1);
        _use(87);
        _assertWindow(0, 1 | 1 << 87);
        _use(1);
        _assertWindow(0, 3 | 1 << 87);
        _assertReason(86, Reason.None);
    }

    function test_windowMoves_byOne() public {
        _use(0);
        _use(1);
        _use(88);
        _assertWindow(1, 1 | 1 << 87);
        _assertReason(0, Reason.NonceRetired);
        _assertReason(1, Reason.NonceUsed);
        _assertReason(2, Reason.None);
    }

    function test_windowMoves_byOne_andRetiresAnUnusedNonce() public {
        _use(88);
        _assertRefused(terms, _payment(terms, 1, 0), Reason.NonceRetired);
        _use(1);
        _assertWindow(1, 1 | 1 << 87);
    }

    /// @dev Around the jumps at which the last used bit falls out of the window.
    function test_windowMoves_byMore() public {
        _use(87);
        _use(87 + 87);
        _assertWindow(87, 1 | 1 << 87);
        _assertReason(86, Reason.NonceRetired);
        _assertReason(87, Reason.NonceUsed);

        _use(87 + 87 + 88);
        _assertWindow(87 + 88, 1 << 87);
        _assertReason(87 + 87, Reason.NonceRetired);
        _assertReason(87 + 88, Reason.None);
    }

    function test_windowMoves_toTheEnd() public {
        _use(5);
        _use(MAX);
        _assertWindow(MAX - 87, 1 << 87);
        _assertReason(5, Reason.NonceRetired);
        _assertReason(MAX - 88, Reason.NonceRetired);
        _assertReason(MAX, Reason.NonceUsed);
        _use(MAX - 87);
        _use(MAX - 1);
        _assertWindow(MAX - 87, 1 | 3 << 86);
    }

    function test_windowMoves_toTheEnd_byOne() public {
        _use(MAX - 1);
        _assertWindow(MAX - 88, 1 << 87);
        _use(MAX);
        _assertWindow(MAX - 87, 3 << 86);
        _use(MAX - 87);
        _assertReason(MAX - 88, Reason.NonceRetired);
    }

    function test_windowMoves_acrossEveryWordSize(uint8 bits) public {
        uint32 jump = uint32(1) << uint32(bound(bits, 7, 31));
        _use(0);
        _use(jump);
        _assertWindow(jump - 87, 1 << 87);
        _assertReason(0, Reason.NonceRetired);
    }

    function test_areScopedByMandate() public {
        Terms memory other = _terms();
        other.intent = keccak256("other");
        _open(other);
        _use(3);
        _spend(other, _payment(other, 1, 3));
    }

    function test_staysUnused_whenThePaymentIsRefused() public {
        Payment memory payment = _payment(terms, 1, 500);
        payment.amount = 2;
        _assertRefused(terms, payment, Reason.BadSignature);
        _assertWindow(0, 0);
    }

    /// @dev Any sequence, against the plain words of the rule.
    function test_followsTheRule(uint32[24] memory nonces, uint256 seed) public {
        uint256 base = 0;
        for (uint256 i = 0; i < nonces.length; ++i) {
            // Mostly close to the window, where the edges are.
            uint256 close = bound(nonces[i], base > 90 ? base - 90 : 0, base + 180);
            uint32 nonce = (seed >> i) & 7 == 0 ? nonces[i] : uint32(close > MAX ? MAX : close);

            Reason expected = nonce < base ? Reason.NonceRetired : used[nonce] ? Reason.NonceUsed : Reason.None;
            assertEq(_canSpend(terms, _payment(terms, 1, nonce)), expected);
            if (expected != Reason.None) continue;

            _use(nonce);
            used[nonce] = true;
            if (nonce > base + 87) base = nonce - 87;
            assertEq(escrow.mandateOf(id).nonceBase, base);
        }
    }

    mapping(uint32 nonce => bool) private used;
}
