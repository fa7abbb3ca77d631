// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Hold, Mandate, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {TokenReturningFalse} from "../../mocks/HostileTokens.sol";

contract SweepTest is EscrowTest {
    Terms private terms;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        id = _open(terms);
    }

    /// @dev I6, I7: whoever triggers it, the operator gets it.
    function test_succeeds_fromAnyone(address sender, uint64 spent) public {
        spent = uint64(bound(spent, 1, CAP - 1));
        _spend(terms, _payment(terms, spent, 0));
        vm.warp(terms.expiry);

        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, operator, CAP - spent, 0);
        vm.prank(sender);
        assertEq(escrow.sweep(terms), CAP - spent);

        assertEq(escrow.mandateOf(id), Mandate(0, 0, 1, 0, Status.Ended));
        assertEq(usdc.balanceOf(operator), CAP - spent);
    }

    /// @dev I9.
    function test_emitsExpectedEvents() public {
        _spend(terms, _payment(terms, 5, 0));
        _hold(terms, _holdOf(terms, 7, 1));
        vm.warp(terms.captureEnd);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, operator, CAP - 12, 7);
        vm.recordLogs();
        escrow.sweep(terms);
        assertEq(vm.getRecordedLogs().length, 2); // Returned, and the token's Transfer
    }

    function test_reverts_beforeExpiry() public {
        vm.warp(terms.expiry - 1);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotEnded.selector, id, terms.expiry));
        escrow.sweep(terms);

        uint256 snapshot = vm.snapshotState();
        vm.warp(terms.expiry);
        escrow.sweep(terms);
        vm.revertToState(snapshot);
        vm.warp(terms.expiry + 1);
        escrow.sweep(terms);
    }

    function test_succeeds_afterARevokeThatCouldNotReturn() public {
        usdc.blacklist(operator);
        vm.prank(operator);
        escrow.revoke(terms);

        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, operator, CAP));
        escrow.sweep(terms);
        usdc.unBlacklist(operator);
        assertEq(escrow.sweep(terms), CAP);
    }

    function test_reverts_whenNothingIsLeft() public {
        _spend(terms, _payment(terms, CAP, 0));
        vm.warp(terms.expiry);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));
        escrow.sweep(terms);
    }

    /// @dev Nothing of another mandate's money, nor of a donation.
    function test_reverts_theSecondTime() public {
        Terms memory other = _terms();
        other.intent = keccak256("other");
        _open(other);
        usdc.mint(address(escrow), 17);

        vm.warp(terms.expiry);
        escrow.sweep(terms);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));
        escrow.sweep(terms);
        assertEq(usdc.balanceOf(address(escrow)), CAP + 17);
    }

    function test_reverts_afterARevokeThatReturned() public {
        vm.prank(operator);
        escrow.revoke(terms);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));
        escrow.sweep(terms);
    }

    // ---------------------------------------------------------------- holds

    /// @dev I6: at captureEnd, and not a second before, what is held goes back with the rest; no hold stands in the way.
    function test_takesWhatIsHeld_fromCaptureEndOn() public {
        _hold(terms, _holdOf(terms, 7, 0));
        _hold(terms, _holdOf(terms, 8, 1));
        uint256 snapshot = vm.snapshotState();

        vm.warp(terms.captureEnd - 1);
        assertEq(escrow.sweep(terms), CAP - 15);
        assertEq(escrow.mandateOf(id), Mandate(0, 15, 3, 0, Status.Ended));
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));
        escrow.sweep(terms);
        vm.warp(terms.captureEnd);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, operator, 0, 15);
        assertEq(escrow.sweep(terms), 15);
        vm.revertToState(snapshot);

        vm.warp(terms.captureEnd);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, operator, CAP - 15, 15);
        assertEq(escrow.sweep(terms), CAP);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 3, 0, Status.Ended));
        assertEq(usdc.balanceOf(operator), CAP);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));
        escrow.sweep(terms);
    }

    /// @dev At no second are both capture and a sweep of the hold possible, and at none neither; likewise release from
    /// captureBy on. Here for a hold that lasts to the end, and one that does not.
    function test_followsCaptureAndReleaseWithoutGapOrOverlap(uint40 captureBy, uint40 time) public {
        Hold memory hold = _holdOf(terms, CAP, 0);
        captureBy = uint40(bound(captureBy, terms.captureEnd - 3, terms.captureEnd));
        hold.captureBy = captureBy;
        _sign(terms, hold);
        _hold(terms, hold);
        time = uint40(bound(time, captureBy - 2, terms.captureEnd + 2));
        vm.warp(time);

        uint256 snapshot = vm.snapshotState();
        bool swept = _succeeds(stranger, abi.encodeCall(IMandateEscrow.sweep, (terms)));
        vm.revertToState(snapshot);
        bool captured = _succeeds(payee, abi.encodeCall(IMandateEscrow.capture, (terms, 0, CAP, CAP, false)));
        vm.revertToState(snapshot);
        bool released = _succeeds(payee, abi.encodeCall(IMandateEscrow.release, (terms, 0)));
        vm.revertToState(snapshot);
        bool releasedByAnyone = _succeeds(stranger, abi.encodeCall(IMandateEscrow.release, (terms, 0)));

        assertEq(captured, time < captureBy);
        assertEq(released, time < terms.captureEnd);
        assertEq(releasedByAnyone, time >= captureBy && time < terms.captureEnd);
        assertEq(swept, time >= terms.captureEnd);
    }

    function _succeeds(address sender, bytes memory call) private returns (bool ok) {
        vm.prank(sender);
        (ok,) = address(escrow).call(call);
    }

    /// @dev I4: what a hold's slot still says after the sweep is worth nothing, though others' money is there to take.
    function test_endsAllHolds_fromCaptureEndOn() public {
        Terms memory other = _terms();
        other.intent = "other";
        _open(other);
        _hold(terms, _holdOf(terms, 7, 0));
        vm.warp(terms.captureEnd);
        escrow.sweep(terms);
        assertEq(escrow.holdOf(id, 0).left, 7);

        assertFalse(_succeeds(payee, abi.encodeCall(IMandateEscrow.capture, (terms, 0, 7, 7, false))));
        assertFalse(_succeeds(payee, abi.encodeCall(IMandateEscrow.release, (terms, 0))));
        assertFalse(_succeeds(stranger, abi.encodeCall(IMandateEscrow.sweep, (terms))));
        assertEq(usdc.balanceOf(address(escrow)), CAP);
    }

    function test_reverts_whenAllIsHeld() public {
        _hold(terms, _holdOf(terms, CAP, 0));
        vm.warp(terms.expiry);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));
        escrow.sweep(terms);
        assertEq(escrow.mandateOf(id), Mandate(0, CAP, 1, 0, Status.Open));
    }

    /// @dev I11.
    function test_succeeds_atTypeMaxima() public {
        terms.cap = type(uint64).max;
        (terms.expiry, terms.captureEnd) = (type(uint32).max, type(uint32).max);
        _open(terms);
        Hold memory hold = _holdOf(terms, type(uint64).max - 1, 0);
        (hold.payment.deadline, hold.captureBy) = (type(uint40).max, type(uint32).max);
        _sign(terms, hold);
        _hold(terms, hold);
        vm.warp(type(uint32).max);
        assertEq(escrow.sweep(terms), type(uint64).max);
    }

    function test_keepsWhatIsHeldApart_whenTheTokenRefuses() public {
        _hold(terms, _holdOf(terms, 7, 0));
        vm.warp(terms.captureEnd);
        usdc.pause();
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, operator, CAP));
        escrow.sweep(terms);
        assertEq(escrow.mandateOf(id), Mandate(CAP - 7, 7, 1, 0, Status.Open));
    }

    // ---------------------------------------------------------------- refunds

    /// @dev I2: what was restored goes back with the rest; what was not went back at once.
    function test_returnsWhatRefundsRestored(uint64 spent, uint64 refunded) public {
        spent = uint64(bound(spent, 1, CAP));
        refunded = uint64(bound(refunded, 1, 2 * CAP));
        terms.refundsRestoreBudget = true;
        id = _open(terms);
        _spend(terms, _payment(terms, spent, 0));
        _fund(stranger, refunded);
        vm.prank(stranger);
        escrow.refund(terms, refunded, 0);

        uint64 restored = refunded < spent ? refunded : spent;
        vm.warp(terms.expiry);
        assertEq(escrow.sweep(terms), CAP - spent + restored);
        assertEq(usdc.balanceOf(operator), CAP - spent + refunded);
        assertEq(usdc.balanceOf(address(escrow)), CAP);
    }

    /// @dev A refund after the last sweep leaves nothing to sweep.
    function test_reverts_afterARefundToAnEndedMandate() public {
        terms.refundsRestoreBudget = true;
        id = _open(terms);
        _spend(terms, _payment(terms, 5, 0));
        vm.warp(terms.expiry);
        escrow.sweep(terms);
        _fund(stranger, 5);
        vm.prank(stranger);
        escrow.refund(terms, 5, 0);
        assertEq(usdc.balanceOf(operator), CAP);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));
        escrow.sweep(terms);
    }

    // ---------------------------------------------------------------- the mandate

    function test_reverts_whenTheMandateIsUnknown() public {
        terms.intent = "unknown";
        vm.warp(terms.expiry);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms)));
        escrow.sweep(terms);
    }

    /// @dev Claiming an earlier expiry is claiming another mandate.
    function test_reverts_whenAnEarlierExpiryIsClaimed() public {
        terms.expiry = NOW;
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms)));
        escrow.sweep(terms);
    }

    function test_reverts_whenTheTokenRefuses() public {
        vm.warp(terms.expiry);
        _upgradeToken(address(new TokenReturningFalse()));
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, operator, CAP));
        escrow.sweep(terms);
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
    }
}
