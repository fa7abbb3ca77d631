// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Vm} from "forge-std/Vm.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Hold, HoldState, Mandate, Payment, Reason, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {Wallet} from "../../mocks/Wallets.sol";

contract HoldTest is EscrowTest {
    Terms private terms;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        id = _open(terms);
    }

    function test_succeeds_withAnyHold(address to, uint64 amount, uint32 nonce, uint40 captureBy, bytes32 ref) public {
        vm.assume(to != address(0) && to != address(escrow) && to != address(usdc));
        Hold memory hold = _holdFor(terms, to, uint64(bound(amount, 1, CAP)), nonce);
        hold.captureBy = uint40(bound(captureBy, NOW + 1, terms.captureEnd));
        hold.payment.ref = ref;
        _sign(terms, hold);
        uint256 before = usdc.balanceOf(to);

        _hold(terms, hold);

        assertEq(escrow.holdOf(id, nonce), HoldState(to, hold.payment.amount, uint32(hold.captureBy)));
        assertEq(escrow.mandateOf(id).remaining, CAP - hold.payment.amount);
        assertEq(escrow.mandateOf(id).held, hold.payment.amount);
        assertEq(escrow.mandateOf(id).status, Status.Open);
        assertEq(usdc.balanceOf(to), before, "nothing moves");
        assertEq(usdc.balanceOf(address(escrow)), CAP);
    }

    /// @dev I11.
    function test_succeeds_atTypeMaxima() public {
        (terms.cap, terms.perPayment) = (type(uint64).max, type(uint64).max);
        (terms.expiry, terms.captureEnd) = (type(uint32).max, type(uint32).max);
        id = _open(terms);
        Hold memory hold = _holdOf(terms, type(uint64).max, type(uint32).max);
        (hold.payment.deadline, hold.captureBy) = (type(uint40).max, type(uint32).max);
        _sign(terms, hold);

        _hold(terms, hold);
        assertEq(escrow.mandateOf(id), Mandate(0, type(uint64).max, 1 << 87, type(uint32).max - 87, Status.Open));
        assertEq(escrow.holdOf(id, type(uint32).max), HoldState(payee, type(uint64).max, type(uint32).max));
    }

    /// @dev I9: one event, and no transfer.
    function test_emitsExpectedEvents() public {
        Hold memory hold = _holdOf(terms, 7, 3);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Held(id, payee, 7, 3, hold.captureBy, hold.payment.ref);
        vm.recordLogs();
        _hold(terms, hold);
        assertEq(vm.getRecordedLogs().length, 1);
    }

    // ---------------------------------------------------------------- the mandate

    function test_reverts_whenTheMandateIsUnknown() public {
        terms.intent = "unknown";
        _assertRefused(terms, _holdOf(terms, 1, 0), Reason.UnknownMandate);
    }

    function test_reverts_whenAnotherTermIsClaimed() public {
        Hold memory hold = _holdOf(terms, 1, 0);
        terms.captureEnd += 1;
        _assertRefused(terms, hold, Reason.UnknownMandate);
    }

    /// @dev I5.
    function test_reverts_whenTheMandateHasEnded() public {
        vm.prank(operator);
        escrow.revoke(terms);
        _assertRefused(terms, _holdOf(terms, 1, 0), Reason.Ended);
    }

    /// @dev I5.
    function test_reverts_beforeStartAndFromExpiryOn() public {
        terms.start = NOW + 10;
        _open(terms);

        vm.warp(terms.start - 1);
        _assertRefused(terms, _holdOf(terms, 1, 0), Reason.NotStarted);
        vm.warp(terms.start);
        _hold(terms, _holdOf(terms, 1, 0));
        vm.warp(terms.start + 1);
        _hold(terms, _holdOf(terms, 1, 1));
        vm.warp(terms.expiry - 1);
        _hold(terms, _holdOf(terms, 1, 2));
        vm.warp(terms.expiry);
        _assertRefused(terms, _holdOf(terms, 1, 3), Reason.Expired);
        vm.warp(terms.expiry + 1);
        _assertRefused(terms, _holdOf(terms, 1, 3), Reason.Expired);
    }

    // ---------------------------------------------------------------- who

    function test_reverts_whenTheSenderIsNoSubmitter(address sender) public {
        vm.assume(sender != submitter);
        Hold memory hold = _holdOf(terms, 1, 0);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.NotSubmitter));
        vm.prank(sender);
        escrow.hold(terms, hold);
    }

    function test_reverts_whenTheSubmitterWasRemoved() public {
        vm.prank(guardian);
        escrow.setSubmitter(submitter, false);
        _assertRefused(terms, _holdOf(terms, 1, 0), Reason.NotSubmitter);
    }

    function test_succeeds_fromAnyoneWithoutAGuardian(address sender) public {
        terms.guardian = address(0);
        id = _open(terms);
        Hold memory hold = _holdOf(terms, 1, 0);
        vm.prank(sender);
        escrow.hold(terms, hold);
        assertEq(escrow.mandateOf(id).held, 1);
    }

    // ---------------------------------------------------------------- times

    function test_reverts_fromItsDeadlineOn() public {
        Hold memory hold = _holdOf(terms, 1, 0);
        hold.payment.deadline = NOW + 10;
        _sign(terms, hold);

        vm.warp(hold.payment.deadline);
        _assertRefused(terms, hold, Reason.DeadlinePassed);
        vm.warp(hold.payment.deadline + 1);
        _assertRefused(terms, hold, Reason.DeadlinePassed);
        vm.warp(hold.payment.deadline - 1);
        _hold(terms, hold);
    }

    function test_reverts_fromItsCaptureByOn() public {
        Hold memory hold = _holdOf(terms, 1, 0);
        hold.captureBy = NOW + 10;
        _sign(terms, hold);

        vm.warp(hold.captureBy);
        _assertRefused(terms, hold, Reason.CaptureByPassed);
        vm.warp(hold.captureBy + 1);
        _assertRefused(terms, hold, Reason.CaptureByPassed);
        vm.warp(hold.captureBy - 1);
        _hold(terms, hold);
    }

    function test_reverts_whenCaptureByIsAfterCaptureEnd() public {
        _assertCaptureBy(terms.captureEnd - 1, 0, Reason.None);
        _assertCaptureBy(terms.captureEnd, 1, Reason.None);
        _assertCaptureBy(terms.captureEnd + 1, 2, Reason.CaptureByTooLate);
    }

    /// @dev I11: none is cut down to the 32 bits of its slot.
    function test_reverts_whenCaptureByDoesNotFitItsSlot(uint40 captureBy) public {
        (terms.expiry, terms.captureEnd) = (type(uint32).max - 90 days, type(uint32).max);
        id = _open(terms);
        _assertCaptureBy(type(uint32).max, 0, Reason.None);
        _assertCaptureBy(uint40(1) << 32, 1, Reason.CaptureByTooLate);
        _assertCaptureBy((uint40(1) << 32) + NOW + 1, 1, Reason.CaptureByTooLate);
        _assertCaptureBy(uint40(bound(captureBy, uint40(1) << 32, type(uint40).max)), 1, Reason.CaptureByTooLate);
    }

    function _assertCaptureBy(uint40 captureBy, uint32 nonce, Reason reason) private {
        Hold memory hold = _holdOf(terms, 1, nonce);
        hold.captureBy = captureBy;
        _sign(terms, hold);
        if (reason == Reason.None) _hold(terms, hold);
        else _assertRefused(terms, hold, reason);
    }

    // ---------------------------------------------------------------- payee and amount

    function test_reverts_whenAmountIsZero() public {
        _assertRefused(terms, _holdOf(terms, 0, 0), Reason.AmountZero);
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
    }

    function test_reverts_whenThePayeeIsZeroOrTheEscrowOrTheToken() public {
        _assertRefused(terms, _holdFor(terms, address(0), 1, 0), Reason.BadPayee);
        _assertRefused(terms, _holdFor(terms, address(escrow), 1, 0), Reason.BadPayee);
        _assertRefused(terms, _holdFor(terms, address(usdc), 1, 0), Reason.BadPayee);
    }

    function test_reverts_whenThePayeeIsNotInTheList() public {
        bytes32 other = keccak256("other leaf");
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(payee))));
        terms.payees = leaf < other ? keccak256(bytes.concat(leaf, other)) : keccak256(bytes.concat(other, leaf));
        id = _open(terms);
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = other;

        _assertRefused(terms, _holdOf(terms, 1, 0), Reason.PayeeNotAllowed);
        Hold memory hold = _holdFor(terms, stranger, 1, 0);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.PayeeNotAllowed));
        vm.prank(submitter);
        escrow.hold(terms, hold, proof, "");

        hold = _holdOf(terms, 1, 0);
        vm.prank(submitter);
        escrow.hold(terms, hold, proof, "");
        assertEq(escrow.holdOf(id, 0).payee, payee);
    }

    function test_reverts_abovePerPayment() public {
        terms.perPayment = 10;
        _open(terms);
        _assertRefused(terms, _holdOf(terms, 11, 0), Reason.AbovePerPayment);
        _assertRefused(terms, _holdOf(terms, type(uint64).max, 0), Reason.AbovePerPayment);
        _hold(terms, _holdOf(terms, 10, 0));
    }

    /// @dev I2: what is held can be neither held nor spent again.
    function test_reverts_aboveWhatRemains(uint64 first) public {
        first = uint64(bound(first, 1, CAP - 1));
        _hold(terms, _holdOf(terms, first, 0));

        _assertRefused(terms, _holdOf(terms, CAP - first + 1, 1), Reason.InsufficientBudget);
        _assertRefused(terms, _holdOf(terms, type(uint64).max, 1), Reason.InsufficientBudget);
        _assertRefused(terms, _payment(terms, CAP - first + 1, 1), Reason.InsufficientBudget);
        uint256 snapshot = vm.snapshotState();
        _spend(terms, _payment(terms, CAP - first, 1));
        assertEq(escrow.mandateOf(id), Mandate(0, first, 3, 0, Status.Open));
        vm.revertToState(snapshot);
        _hold(terms, _holdOf(terms, CAP - first, 1));
        assertEq(escrow.mandateOf(id), Mandate(0, CAP, 3, 0, Status.Open));
    }

    // ---------------------------------------------------------------- nonces

    /// @dev I3: one series for payments and holds.
    function test_reverts_whenTheNonceHasPaidOrHeld() public {
        _spend(terms, _payment(terms, 1, 0));
        _hold(terms, _holdOf(terms, 2, 1));
        _assertRefused(terms, _holdOf(terms, 1, 0), Reason.NonceUsed);
        _assertRefused(terms, _holdOf(terms, 2, 1), Reason.NonceUsed);
        _assertRefused(terms, _payment(terms, 2, 1), Reason.NonceUsed);
        _expectSkipped(id, 1, Reason.NonceUsed);
        _settle(terms, _rows(_payment(terms, 2, 1)));
        assertEq(escrow.holdOf(id, 1).left, 2);
    }

    /// @dev I4: the slot of an ended hold is clear, and is never used again.
    function test_reverts_whenTheHoldOfThisNonceHasEnded() public {
        Hold memory hold = _holdOf(terms, 5, 1);
        _hold(terms, hold);
        _capture(terms, 1, 5, 5, false);
        _assertRefused(terms, hold, Reason.NonceUsed);

        _hold(terms, _holdOf(terms, 5, 2));
        _release(terms, 2);
        _assertRefused(terms, _holdOf(terms, 6, 2), Reason.NonceUsed);
        _hold(terms, _holdOf(terms, 5, 90));
        _assertRefused(terms, hold, Reason.NonceRetired);
    }

    function test_retiresNoncesBelowItsWindow() public {
        _hold(terms, _holdOf(terms, 1, 88));
        _assertRefused(terms, _holdOf(terms, 1, 0), Reason.NonceRetired);
        _assertRefused(terms, _payment(terms, 1, 0), Reason.NonceRetired);
        _spend(terms, _payment(terms, 1, 1));
        assertEq(escrow.mandateOf(id), Mandate(CAP - 2, 1, uint88(1) << 87 | 1, 1, Status.Open));
    }

    /// @dev A nonce names a hold of one mandate.
    function test_keepsHoldsOfMandatesApart() public {
        Terms memory other = _terms();
        other.intent = "other";
        bytes32 otherId = _open(other);
        _hold(terms, _holdOf(terms, 5, 0));
        _hold(other, _holdFor(other, stranger, 6, 0));
        assertEq(escrow.holdOf(id, 0).left, 5);
        assertEq(escrow.holdOf(otherId, 0).left, 6);

        _capture(terms, 0, 5, 5, true);
        assertEq(escrow.holdOf(otherId, 0).left, 6);
        assertEq(escrow.mandateOf(otherId).held, 6);
    }

    // ---------------------------------------------------------------- the signature

    /// @dev I7.
    function test_reverts_whenAnySignedFieldIsChanged(uint256 field) public {
        Hold memory hold = _holdOf(terms, 5, 3);
        field = bound(field, 0, 7);
        if (field == 0) hold.payment.payee = stranger;
        if (field == 1) hold.payment.amount += 1;
        if (field == 2) hold.payment.nonce += 1;
        if (field == 3) hold.payment.deadline += 1;
        if (field == 4) hold.captureBy += 1;
        if (field == 5) hold.payment.ref = ~hold.payment.ref;
        if (field == 6) hold.payment.r = ~hold.payment.r;
        if (field == 7) hold.payment.vs = ~hold.payment.vs;
        _assertRefused(terms, hold, Reason.BadSignature);
    }

    function test_reverts_whenSignedForAnotherMandateOrChainOrByAnotherKey() public {
        Terms memory other = _terms();
        other.intent = "other";
        _open(other);
        _assertRefused(terms, _holdOf(other, 5, 0), Reason.BadSignature);

        Hold memory hold = _holdOf(terms, 5, 0);
        (hold.payment.r, hold.payment.vs) = vm.signCompact(operatorKey, _holdDigest(id, hold));
        _assertRefused(terms, hold, Reason.BadSignature);

        _sign(terms, hold);
        vm.chainId(1);
        _assertRefused(terms, hold, Reason.BadSignature);
    }

    /// @dev A signature of one verb is none of the other, though they share payee, amount, nonce, deadline and ref.
    function test_reverts_withTheSignatureOfAPayment() public {
        Payment memory payment = _payment(terms, 5, 0);
        Hold memory hold = _holdOf(terms, 5, 0);
        (hold.payment.r, hold.payment.vs, payment.r, payment.vs) =
        (payment.r, payment.vs, hold.payment.r, hold.payment.vs);
        _assertRefused(terms, hold, Reason.BadSignature);
        _assertRefused(terms, payment, Reason.BadSignature);
    }

    function test_succeeds_withAWalletAsAgent() public {
        terms.agent = address(new Wallet(agent));
        id = _open(terms);
        Hold memory hold = _holdOf(terms, 5, 0);
        _assertRefused(terms, hold, Reason.BadSignature);

        (uint8 v, bytes32 r, bytes32 s) = vm.sign(agentKey, _holdDigest(id, hold));
        vm.prank(submitter);
        escrow.hold(terms, hold, new bytes32[](0), abi.encodePacked(r, s, v));
        assertEq(escrow.mandateOf(id).held, 5);
    }

    // ---------------------------------------------------------------- token

    /// @dev A hold asks nothing of the token.
    function test_succeeds_whateverTheTokenDoes() public {
        usdc.blacklist(payee);
        usdc.pause();
        _hold(terms, _holdOf(terms, 5, 0));
        vm.etch(address(usdc), "");
        _hold(terms, _holdOf(terms, 5, 1));
        assertEq(escrow.mandateOf(id).held, 10);
    }
}
