// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {HoldState, Mandate, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";

contract ReleaseTest is EscrowTest {
    uint64 private constant HELD = 10e6;
    uint32 private constant NONCE = 3;
    uint88 private constant USED = 8; // bit 3

    Terms private terms;
    bytes32 private id;
    uint40 private captureBy;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        id = _open(terms);
        _hold(terms, _holdOf(terms, HELD, NONCE));
        captureBy = escrow.holdOf(id, NONCE).captureBy;
    }

    function _releaseAs(address sender) private {
        vm.prank(sender);
        escrow.release(terms, NONCE);
    }

    function test_succeeds_forPayeeAndSubmitter(uint64 captured, bool byPayee) public {
        captured = uint64(bound(captured, 0, HELD - 1));
        if (captured != 0) _capture(terms, NONCE, HELD, captured, false);
        _releaseAs(byPayee ? payee : submitter);

        assertEq(escrow.holdOf(id, NONCE), HoldState(address(0), 0, 0));
        assertEq(escrow.mandateOf(id), Mandate(CAP - captured, 0, USED, 0, Status.Open));
        assertEq(usdc.balanceOf(address(escrow)), CAP - captured);
    }

    /// @dev I9: what is released moves no token.
    function test_emitsExpectedEvents() public {
        _capture(terms, NONCE, HELD, 4, false);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Released(id, HELD - 4, NONCE);
        vm.recordLogs();
        _releaseAs(submitter);
        assertEq(vm.getRecordedLogs().length, 1);
    }

    function test_leavesOtherHoldsAlone() public {
        _hold(terms, _holdOf(terms, 7, NONCE + 1));
        _releaseAs(submitter);
        assertEq(escrow.mandateOf(id), Mandate(CAP - 7, 7, 3 * USED, 0, Status.Open));
        assertEq(escrow.holdOf(id, NONCE + 1).left, 7);
    }

    function test_returnsItToTheBudget() public {
        _releaseAs(submitter);
        _spend(terms, _payment(terms, CAP, 4));
        assertEq(usdc.balanceOf(payee), CAP);
    }

    /// @dev I11.
    function test_succeeds_atTypeMaxima() public {
        terms.cap = type(uint64).max;
        id = _open(terms);
        _hold(terms, _holdOf(terms, type(uint64).max, type(uint32).max));
        _release(terms, type(uint32).max);
        assertEq(escrow.mandateOf(id).remaining, type(uint64).max);
        assertEq(escrow.mandateOf(id).held, 0);
    }

    // ---------------------------------------------------------------- the hold

    /// @dev I4.
    function test_reverts_whenThereIsNone(uint32 nonce) public {
        _releaseAs(submitter);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NoSuchHold.selector, id, nonce));
        _release(terms, nonce);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NoSuchHold.selector, id, NONCE));
        _releaseAs(payee);
    }

    function test_reverts_whenAllIsCaptured() public {
        _capture(terms, NONCE, HELD, HELD, false);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NoSuchHold.selector, id, NONCE));
        _releaseAs(payee);
    }

    function test_reverts_withTheNonceOfAPayment() public {
        _spend(terms, _payment(terms, 5, 4));
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NoSuchHold.selector, id, 4));
        _release(terms, 4);
    }

    function test_reverts_whenTheMandateIsUnknown() public {
        terms.captureEnd += 1;
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms)));
        _releaseAs(submitter);
    }

    // ---------------------------------------------------------------- who and when

    function test_isForPayeeAndSubmitterUntilCaptureBy_thenForAnyone(address sender) public {
        vm.assume(sender != payee && sender != submitter);
        vm.warp(captureBy - 1);
        _assertNotYet(sender);
        uint256 snapshot = vm.snapshotState();
        _releaseAs(payee);
        vm.revertToState(snapshot);
        vm.warp(captureBy);
        _releaseAs(sender);
        vm.revertToState(snapshot);
        vm.warp(captureBy + 1);
        _releaseAs(sender);
        vm.revertToState(snapshot);
        vm.warp(terms.captureEnd - 1);
        _releaseAs(sender);
        assertEq(escrow.mandateOf(id).held, 0);
    }

    /// @dev A hold protects its payee against operator and agent.
    function test_reverts_forOperatorAgentAndGuardianBeforeCaptureBy() public {
        _assertNotYet(operator);
        _assertNotYet(agent);
        _assertNotYet(guardian);
    }

    function test_reverts_whenTheSubmitterWasRemoved() public {
        vm.prank(guardian);
        escrow.setSubmitter(submitter, false);
        _assertNotYet(submitter);
        vm.warp(captureBy);
        _releaseAs(submitter);
    }

    function test_isThePayeesAlone_withoutAGuardian(address sender) public {
        vm.assume(sender != payee);
        terms.guardian = address(0);
        id = _open(terms);
        _hold(terms, _holdOf(terms, HELD, NONCE));
        vm.prank(address(0));
        escrow.setSubmitter(sender, true);
        _assertNotYet(sender);

        uint256 snapshot = vm.snapshotState();
        _releaseAs(payee);
        vm.revertToState(snapshot);
        vm.warp(captureBy);
        _releaseAs(sender);
    }

    function _assertNotYet(address sender) private {
        vm.expectRevert(
            abi.encodeWithSelector(IMandateEscrow.NotYetReleasable.selector, sender, captureBy, block.timestamp)
        );
        _releaseAs(sender);
    }

    function test_reverts_fromCaptureEndOn() public {
        vm.warp(terms.captureEnd);
        _assertTooLate(payee);
        _assertTooLate(submitter);
        _assertTooLate(stranger);
        vm.warp(terms.captureEnd + 1);
        _assertTooLate(payee);
    }

    function _assertTooLate(address sender) private {
        vm.expectRevert(
            abi.encodeWithSelector(IMandateEscrow.CaptureEndPassed.selector, terms.captureEnd, block.timestamp)
        );
        _releaseAs(sender);
    }

    // ---------------------------------------------------------------- after the end

    /// @dev I6: the money is the mandate's again, and a sweep, which needs nobody's help, brings it home.
    function test_waitsForASweep_afterRevoke(bool early) public {
        vm.prank(operator);
        escrow.revoke(terms);
        assertEq(usdc.balanceOf(operator), CAP - HELD);

        if (early) _releaseAs(payee);
        vm.warp(captureBy);
        if (!early) _releaseAs(stranger);
        assertEq(escrow.mandateOf(id), Mandate(HELD, 0, USED, 0, Status.Ended));

        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, operator, HELD, 0);
        vm.prank(stranger);
        escrow.sweep(terms);
        assertEq(usdc.balanceOf(operator), CAP);
    }

    function test_waitsForASweep_afterASweep() public {
        vm.warp(terms.expiry);
        assertEq(escrow.sweep(terms), CAP - HELD);
        _releaseAs(submitter);
        assertEq(escrow.sweep(terms), HELD);
        assertEq(usdc.balanceOf(operator), CAP);
    }

    // ---------------------------------------------------------------- token

    /// @dev It asks nothing of the token, so nobody can keep it from succeeding.
    function test_succeeds_whateverTheTokenDoes() public {
        usdc.blacklist(payee);
        usdc.blacklist(operator);
        usdc.pause();
        vm.prank(operator);
        escrow.revoke(terms);
        _releaseAs(submitter);
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, USED, 0, Status.Ended));
    }
}
