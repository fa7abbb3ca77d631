// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Hold, Mandate, Payment, Reason, Status, Terms} from "../../../src/interfaces/Types.sol";
import {OperatorMessageTest} from "../../base/OperatorMessageTest.sol";
import {TokenReturningFalse, TokenTakingAFee} from "../../mocks/HostileTokens.sol";
import {WalletRefusing} from "../../mocks/Wallets.sol";

contract RollTest is OperatorMessageTest {
    Terms private from;
    Terms private to;
    bytes32 private old;
    bytes32 private new_;

    function setUp() public override {
        super.setUp();
        from = _terms();
        from.intent = "before";
        old = _open(from);
        to = _successor(from);
        new_ = _idOf(to);
    }

    function _successor(Terms memory terms) private pure returns (Terms memory next) {
        next = abi.decode(abi.encode(terms), (Terms));
        next.intent = keccak256(abi.encode(terms.intent, "after"));
        (next.expiry, next.captureEnd) = (terms.expiry + 30 days, terms.captureEnd + 30 days);
    }

    // ---------------------------------------------------------------- the operator's message

    function _prepare(Terms memory terms) internal override {
        _open(terms);
    }

    function _message(Terms memory terms) internal view override returns (bytes32) {
        return _rollDigest(escrow.idOf(terms), escrow.idOf(_successor(terms)), 0);
    }

    function _carry(Terms memory terms, bytes memory signature) internal pure override returns (bytes memory) {
        return abi.encodeCall(IMandateEscrow.roll, (terms, _successor(terms), 0, signature));
    }

    function test_reverts_whenSignedForAnotherMandateOrPull() public {
        Terms memory other = _successor(to);
        _assertNotSigned(from, _sign(operatorKey, _rollDigest(old, _idOf(other), 0)));
        _assertNotSigned(from, _sign(operatorKey, _rollDigest(new_, old, 0)));
        _assertNotSigned(from, _sign(operatorKey, _rollDigest(old, new_, 1)));
        _assertNotSigned(from, _sign(operatorKey, _revokeDigest(old)));
        _assertNotSigned(from, _sign(operatorKey, _termsDigest(to)));
    }

    /// @dev An operator contract that answers no ERC-1271 question is not locked out.
    function test_succeeds_forAnOperatorThatSignsNothing() public {
        from.operator = address(new WalletRefusing());
        to.operator = from.operator;
        _open(from);
        _roll(0);
        assertEq(escrow.mandateOf(_idOf(to)).status, Status.Open);
    }

    /// @dev A message without a deadline is withdrawn by what it would open or end.
    function test_reverts_onceTheSignedTermsAreWithdrawn() public {
        bytes memory signature = _sign(operatorKey, _message(from));
        vm.prank(operator);
        escrow.revoke(to);
        _assertReverts(from, signature, abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, new_));
        assertEq(escrow.mandateOf(old), Mandate(CAP, 0, 0, 0, Status.Open));
    }

    function test_reverts_whenReplayed() public {
        bytes memory signature = _sign(operatorKey, _message(from));
        _send(from, signature);
        _assertReverts(from, signature, abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, old));
    }

    // ---------------------------------------------------------------- money

    function _roll(uint64 maxPull) private returns (bytes32) {
        vm.prank(from.operator);
        return escrow.roll(from, to, maxPull, "");
    }

    function _assertReverts(bytes memory refusal) private {
        Mandate memory before = escrow.mandateOf(old);
        vm.expectRevert(refusal);
        vm.prank(from.operator);
        escrow.roll(from, to, type(uint64).max, "");
        assertEq(escrow.mandateOf(old), before);
    }

    function test_movesNothing_whenTheCapIsWhatIsLeft() public {
        _spend(from, _payment(from, 30e6, 0));
        to.cap = CAP - 30e6;
        new_ = _idOf(to);

        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Opened(new_, operator, agent, to);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Rolled(old, new_, CAP - 30e6);
        vm.recordLogs();
        assertEq(_roll(0), new_);
        assertEq(vm.getRecordedLogs().length, 2);

        assertEq(escrow.mandateOf(old), Mandate(0, 0, 1, 0, Status.Ended));
        assertEq(escrow.mandateOf(new_), Mandate(CAP - 30e6, 0, 0, 0, Status.Open));
        assertEq(usdc.balanceOf(address(escrow)), CAP - 30e6);
    }

    function test_pullsTheDifference_toAHigherCap() public {
        _spend(from, _payment(from, 30e6, 0));
        to.cap = CAP + 50e6;
        new_ = _idOf(to);
        _fund(operator, 80e6);

        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Rolled(old, new_, CAP - 30e6);
        _roll(80e6);

        assertEq(usdc.balanceOf(operator), 0);
        assertEq(usdc.balanceOf(address(escrow)), CAP + 50e6);
        assertEq(escrow.mandateOf(new_), Mandate(CAP + 50e6, 0, 0, 0, Status.Open));
    }

    function test_returnsTheDifference_toALowerCap() public {
        to.cap = 40e6;
        new_ = _idOf(to);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Rolled(old, new_, 40e6);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(old, operator, CAP - 40e6, 0);
        _roll(0);

        assertEq(usdc.balanceOf(operator), CAP - 40e6);
        assertEq(escrow.mandateOf(old), Mandate(0, 0, 0, 0, Status.Ended));
        assertEq(escrow.mandateOf(new_), Mandate(40e6, 0, 0, 0, Status.Open));
    }

    /// @dev Whatever was spent and whatever the caps: only the difference moves, and the sum stays.
    function test_movesOnlyTheDifference(uint64 spent, uint64 cap) public {
        (spent, cap) = (uint64(bound(spent, 1, CAP)), uint64(bound(cap, 1, 2 * CAP)));
        _spend(from, _payment(from, spent, 0));
        to.cap = cap;
        uint64 left = CAP - spent;
        uint64 pull = cap > left ? cap - left : 0;
        if (pull != 0) _fund(operator, pull);
        _roll(pull);
        assertEq(usdc.balanceOf(operator), left > cap ? left - cap : 0);
        assertEq(usdc.balanceOf(address(escrow)), cap);
        assertEq(escrow.mandateOf(_idOf(to)), Mandate(cap, 0, 0, 0, Status.Open));
    }

    /// @dev I11: from one unit to all that a cap can be.
    function test_succeeds_atTypeMaxima() public {
        from.cap = 1;
        old = _open(from);
        to.cap = type(uint64).max;
        _fund(operator, type(uint64).max - 1);
        _roll(type(uint64).max - 1);
        assertEq(escrow.mandateOf(_idOf(to)), Mandate(type(uint64).max, 0, 0, 0, Status.Open));

        from = to;
        to = _successor(from);
        to.cap = 1;
        _roll(0);
        assertEq(usdc.balanceOf(operator), type(uint64).max - 1);
    }

    /// @dev An agent that sees the roll and spends first would make it take the cap a second time from the allowance.
    function test_reverts_whenAPaymentComesFirst() public {
        _fund(operator, CAP);
        _spend(from, _payment(from, 30e6, 0));
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.PullAboveMaximum.selector, 30e6, 30e6 - 1));
        _roll(30e6 - 1);
        assertEq(usdc.balanceOf(operator), CAP);
        assertEq(escrow.mandateOf(old).status, Status.Open);
        assertEq(escrow.mandateOf(new_).status, Status.None);
        _roll(30e6);
        assertEq(usdc.balanceOf(operator), CAP - 30e6);
    }

    // ---------------------------------------------------------------- what ends, what stays

    function test_endsTheOldAgentsSignatures() public {
        (to.agent,) = makeAddrAndKey("the next agent");
        Payment memory payment = _payment(from, 1e6, 0);
        _roll(0);
        _assertRefused(from, payment, Reason.Ended);
        // Signed by the old agent under the new terms.
        _assertRefused(to, _payment(to, 1e6, 0), Reason.BadSignature);
    }

    function test_letsTheNewTermsPay_fromTheFirstNonceOn() public {
        _spend(from, _payment(from, 1e6, 7));
        to.cap = CAP - 1e6;
        _roll(0);
        _spend(to, _payment(to, 2e6, 0));
        assertEq(usdc.balanceOf(payee), 3e6);
    }

    function test_leavesHoldsWithTheOldMandate() public {
        _hold(from, _holdOf(from, 20e6, 0));
        _hold(from, _holdOf(from, 10e6, 1));
        to.cap = CAP - 30e6;
        _roll(0);
        assertEq(escrow.mandateOf(old), Mandate(0, 30e6, 3, 0, Status.Ended));

        _capture(from, 0, 20e6, 20e6, true);
        _release(from, 1);
        assertEq(usdc.balanceOf(payee), 20e6);
        assertEq(escrow.sweep(from), 10e6);
        assertEq(usdc.balanceOf(operator), 10e6);
        assertEq(escrow.mandateOf(_idOf(to)).remaining, CAP - 30e6);
    }

    /// @dev From captureEnd on a sweep returns what was held; the roll leaves it alone.
    function test_leavesWhatWasHeld_evenAfterCaptureEnd() public {
        _hold(from, _holdOf(from, 20e6, 0));
        to.cap = CAP - 30e6;
        (to.expiry, to.captureEnd) = (from.captureEnd + 1 days, from.captureEnd + 1 days);
        vm.warp(from.captureEnd);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(old, operator, 10e6, 0);
        _roll(0);
        assertEq(escrow.sweep(from), 20e6);
        assertEq(usdc.balanceOf(operator), 30e6);
    }

    function test_succeeds_afterTheExpiry() public {
        vm.warp(from.expiry);
        _roll(0);
        assertEq(escrow.mandateOf(_idOf(to)), Mandate(CAP, 0, 0, 0, Status.Open));
        _assertRefused(from, _payment(from, 1, 0), Reason.Ended);
    }

    /// @dev The operator may let go of anything in the next terms.
    function test_changesAnyTerm() public {
        to.agent = stranger;
        to.guardian = address(0);
        (to.perPayment, to.windowCap, to.window) = (1e6, 5e6, 1 days);
        to.payees = keccak256("payees");
        to.refundsRestoreBudget = true;
        assertEq(_roll(0), _idOf(to));
    }

    // ---------------------------------------------------------------- refusals

    function test_reverts_forAnotherOperator() public {
        to.operator = stranger;
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.OperatorDiffers.selector, operator, stranger));
    }

    function test_reverts_withoutTheOperatorsWord() public {
        address[3] memory others = [agent, submitter, stranger];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotSignedByOperator.selector, operator));
            vm.prank(others[i]);
            escrow.roll(from, to, 0, "");
        }
    }

    function test_reverts_whenTheMandateIsUnknown() public {
        from.intent = "never opened";
        old = _idOf(from);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, old));
    }

    function test_reverts_whenTheMandateHasEnded() public {
        vm.prank(operator);
        escrow.revoke(from);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, old));
    }

    function test_reverts_intoItself() public {
        to = from;
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, old));
    }

    function test_reverts_intoAnOpenMandate() public {
        new_ = _open(to);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.AlreadyOpened.selector, new_));
    }

    /// @dev Not more than an opening would take.
    function test_reverts_intoUnsoundTerms() public {
        to.cap = 0;
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.CapIsZero.selector));
        to.cap = CAP;
        vm.warp(to.expiry);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.ExpiryNotInFuture.selector, to.expiry, to.expiry));
    }

    function test_reverts_withoutAnAllowance() public {
        to.cap = CAP + 1;
        usdc.mint(operator, 1);
        _assertReverts(abi.encodeWithSignature("Error(string)", "ERC20: transfer amount exceeds allowance"));
    }

    function test_reverts_whenTheTokenTakesAnotherAmount() public {
        to.cap = CAP + 5e6;
        _fund(operator, 10e6);
        _upgradeToken(address(new TokenTakingAFee()));
        vm.expectPartialRevert(IMandateEscrow.TransferDeltaMismatch.selector);
        _roll(5e6);
    }

    /// @dev Nothing ends then; the operator can revoke, and sweep to another recipient.
    function test_reverts_whenTheTokenRefusesTheOperator() public {
        to.cap = 40e6;
        usdc.blacklist(operator);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, operator, CAP - 40e6));
        to.cap = CAP;
        _roll(0);
    }

    function test_reverts_whenTheTokenReturnsFalse() public {
        to.cap = 40e6;
        _upgradeToken(address(new TokenReturningFalse()));
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, operator, CAP - 40e6));
    }
}
