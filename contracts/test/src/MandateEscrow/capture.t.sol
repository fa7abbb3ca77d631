// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Vm} from "forge-std/Vm.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {HoldState, Mandate, Reason, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {TokenReturningFalse, TokenReturningNonsense, TokenRevertingWithABomb} from "../../mocks/HostileTokens.sol";

contract CaptureTest is EscrowTest {
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

    function _assertHeld(uint64 left, uint64 remaining) private view {
        HoldState memory expected;
        if (left != 0) expected = HoldState(payee, left, uint32(captureBy));
        assertEq(escrow.holdOf(id, NONCE), expected);
        assertEq(escrow.mandateOf(id), Mandate(remaining, left, USED, 0, Status.Open));
    }

    // ---------------------------------------------------------------- paying

    function test_succeeds_withAnyPart(uint64 amount, bool close, bool byPayee) public {
        amount = uint64(bound(amount, 1, HELD));
        vm.prank(byPayee ? payee : submitter);
        escrow.capture(terms, NONCE, HELD, amount, close);

        uint64 rest = HELD - amount;
        _assertHeld(close ? 0 : rest, CAP - HELD + (close ? rest : 0));
        assertEq(usdc.balanceOf(payee), amount);
        assertEq(usdc.balanceOf(address(escrow)), CAP - amount);
    }

    /// @dev I9.
    function test_emitsExpectedEvents() public {
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Captured(id, payee, 4, NONCE);
        vm.recordLogs();
        _capture(terms, NONCE, HELD, 4, false);
        assertEq(vm.getRecordedLogs().length, 2); // Captured, and the token's Transfer

        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Captured(id, payee, 5, NONCE);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Released(id, HELD - 9, NONCE);
        vm.recordLogs();
        _capture(terms, NONCE, HELD - 4, 5, true);
        assertEq(vm.getRecordedLogs().length, 3);
    }

    /// @dev I9: `close` releases nothing if nothing is left, and then says nothing of it.
    function test_emitsNoReleased_whenNothingIsLeft() public {
        vm.recordLogs();
        _capture(terms, NONCE, HELD, HELD, true);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 2);
        assertEq(logs[0].topics[0], IMandateEscrow.Captured.selector);
        assertEq(logs[1].emitter, address(usdc));
    }

    /// @dev I4: parts never exceed the hold, however it is cut.
    function test_succeeds_inParts(uint64[5] memory parts) public {
        uint64 left = HELD;
        for (uint256 i = 0; i < parts.length && left != 0; ++i) {
            uint64 part = uint64(bound(parts[i], 1, left));
            _capture(terms, NONCE, left, part, false);
            left -= part;
            _assertHeld(left, CAP - HELD);
            assertEq(usdc.balanceOf(payee), HELD - left);
        }
    }

    /// @dev What is released by `close` can be spent again.
    function test_returnsTheRestToTheBudget() public {
        _capture(terms, NONCE, HELD, 1, true);
        _assertRefused(terms, _payment(terms, CAP, 4), Reason.InsufficientBudget);
        _spend(terms, _payment(terms, CAP - 1, 4));
        assertEq(usdc.balanceOf(payee), CAP);
    }

    /// @dev I11.
    function test_succeeds_atTypeMaxima() public {
        terms.cap = type(uint64).max;
        id = _open(terms);
        _hold(terms, _holdOf(terms, type(uint64).max, type(uint32).max));
        vm.expectRevert(
            abi.encodeWithSelector(IMandateEscrow.HoldChanged.selector, id, type(uint32).max, 0, type(uint64).max)
        );
        _capture(terms, type(uint32).max, 0, type(uint64).max, true);

        uint256 snapshot = vm.snapshotState();
        _capture(terms, type(uint32).max, type(uint64).max, 1, true);
        assertEq(escrow.mandateOf(id).remaining, type(uint64).max - 1);
        vm.revertToState(snapshot);
        _capture(terms, type(uint32).max, type(uint64).max, type(uint64).max, true);
        assertEq(usdc.balanceOf(payee), type(uint64).max);
    }

    // ---------------------------------------------------------------- repeats

    /// @dev A repeat of a call whose answer was lost pays nothing, closing or not.
    function test_reverts_whenRepeated(uint64 amount, bool close) public {
        amount = uint64(bound(amount, 1, HELD));
        _capture(terms, NONCE, HELD, amount, close);
        uint64 left = escrow.holdOf(id, NONCE).left;

        _expectHoldChanged(HELD, left);
        _capture(terms, NONCE, HELD, amount, close);
        assertEq(usdc.balanceOf(payee), amount);
    }

    function test_reverts_unlessExactlyTheExpectedIsHeld(uint64 expected) public {
        vm.assume(expected != HELD);
        _expectHoldChanged(expected, HELD);
        _capture(terms, NONCE, expected, 1, false);
    }

    /// @dev I4: from the end of a hold on there is none.
    function test_reverts_afterTheEndOfTheHold() public {
        uint256 snapshot = vm.snapshotState();
        _capture(terms, NONCE, HELD, 1, true);
        _assertEnded();
        vm.revertToState(snapshot);
        _capture(terms, NONCE, HELD, HELD, false);
        _assertEnded();
        vm.revertToState(snapshot);
        _release(terms, NONCE);
        _assertEnded();
    }

    function _assertEnded() private {
        _expectHoldChanged(HELD, 0);
        _capture(terms, NONCE, HELD, 1, false);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NoSuchHold.selector, id, NONCE));
        _capture(terms, NONCE, 0, 1, false);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NoSuchHold.selector, id, NONCE));
        _release(terms, NONCE);
    }

    function _expectHoldChanged(uint64 expected, uint64 held) private {
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.HoldChanged.selector, id, NONCE, expected, held));
    }

    // ---------------------------------------------------------------- the hold

    function test_reverts_whenThereIsNone(uint32 nonce) public {
        vm.assume(nonce != NONCE);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NoSuchHold.selector, id, nonce));
        _capture(terms, nonce, 0, 1, false);
    }

    /// @dev A payment leaves nothing behind that could be captured.
    function test_reverts_withTheNonceOfAPayment() public {
        _spend(terms, _payment(terms, 5, 4));
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.HoldChanged.selector, id, 4, 5, 0));
        _capture(terms, 4, 5, 5, false);
    }

    function test_reverts_whenTheMandateIsUnknown() public {
        terms.guardian = stranger;
        vm.prank(stranger);
        escrow.setSubmitter(submitter, true);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms)));
        _capture(terms, NONCE, HELD, HELD, false);
    }

    function test_reverts_whenAmountIsZero() public {
        vm.expectRevert(IMandateEscrow.AmountIsZero.selector);
        _capture(terms, NONCE, HELD, 0, false);
        vm.expectRevert(IMandateEscrow.AmountIsZero.selector);
        _capture(terms, NONCE, HELD, 0, true);
    }

    /// @dev I4, I11: not out of the mandate's rest, nor out of another hold.
    function test_reverts_aboveWhatIsHeld(uint64 amount) public {
        _hold(terms, _holdOf(terms, HELD, NONCE + 1));
        amount = uint64(bound(amount, HELD + 1, type(uint64).max));
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.AmountAboveHeld.selector, amount, HELD));
        _capture(terms, NONCE, HELD, amount, false);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.AmountAboveHeld.selector, amount, HELD));
        _capture(terms, NONCE, HELD, amount, true);
    }

    // ---------------------------------------------------------------- who

    function test_reverts_forAnybodyElse(address sender) public {
        vm.assume(sender != payee && sender != submitter);
        _assertNotAllowed(sender);
    }

    /// @dev Not even those who signed, or who said who may.
    function test_reverts_forOperatorAgentAndGuardian() public {
        _assertNotAllowed(operator);
        _assertNotAllowed(agent);
        _assertNotAllowed(guardian);
    }

    function test_reverts_whenTheSubmitterWasRemoved() public {
        vm.prank(guardian);
        escrow.setSubmitter(submitter, false);
        _assertNotAllowed(submitter);
        vm.prank(payee);
        escrow.capture(terms, NONCE, HELD, HELD, false);
    }

    function test_reverts_forTheSubmitterOfAnotherGuardian() public {
        vm.prank(operator);
        escrow.setSubmitter(stranger, true);
        _assertNotAllowed(stranger);
    }

    /// @dev Zero opens payments and holds to everybody, but this to the payee alone; even if zero could allow submitters.
    function test_isThePayeesAlone_withoutAGuardian(address sender) public {
        vm.assume(sender != payee);
        terms.guardian = address(0);
        id = _open(terms);
        _hold(terms, _holdOf(terms, HELD, NONCE));
        vm.prank(address(0));
        escrow.setSubmitter(sender, true);
        _assertNotAllowed(sender);

        vm.prank(payee);
        escrow.capture(terms, NONCE, HELD, HELD, false);
        assertEq(usdc.balanceOf(payee), HELD);
    }

    function _assertNotAllowed(address sender) private {
        vm.expectRevert(
            abi.encodeWithSelector(IMandateEscrow.NotPayeeOrSubmitter.selector, sender, payee, terms.guardian)
        );
        vm.prank(sender);
        escrow.capture(terms, NONCE, HELD, 1, false);
    }

    // ---------------------------------------------------------------- times

    /// @dev I4.
    function test_reverts_fromCaptureByOn() public {
        vm.warp(captureBy - 1);
        _capture(terms, NONCE, HELD, 1, false);
        vm.warp(captureBy);
        _assertTooLate(payee);
        _assertTooLate(submitter);
        vm.warp(captureBy + 1);
        _assertTooLate(payee);
        vm.warp(terms.captureEnd);
        _assertTooLate(payee);
    }

    function _assertTooLate(address sender) private {
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.CaptureByPassed.selector, captureBy, block.timestamp));
        vm.prank(sender);
        escrow.capture(terms, NONCE, HELD - 1, 1, false);
    }

    /// @dev Only new holds end with the expiry. What `close` releases then waits for a sweep.
    function test_succeeds_afterExpiry() public {
        vm.warp(terms.expiry);
        _capture(terms, NONCE, HELD, 4, true);
        assertEq(escrow.sweep(terms), CAP - 4);
        assertEq(usdc.balanceOf(operator), CAP - 4);
    }

    /// @dev Adversarial cases 16 and 17: a revocation takes nothing from the payee.
    function test_succeeds_afterRevoke() public {
        vm.prank(operator);
        escrow.revoke(terms);
        _capture(terms, NONCE, HELD, 4, false);
        assertEq(escrow.mandateOf(id), Mandate(0, HELD - 4, USED, 0, Status.Ended));

        vm.prank(payee);
        escrow.capture(terms, NONCE, HELD - 4, 1, true);
        assertEq(escrow.mandateOf(id), Mandate(HELD - 5, 0, USED, 0, Status.Ended));
        assertEq(usdc.balanceOf(payee), 5);
        assertEq(escrow.sweep(terms), HELD - 5);
        assertEq(usdc.balanceOf(operator), CAP - 5);
    }

    function test_succeeds_afterASweepBeforeCaptureEnd() public {
        vm.warp(terms.expiry);
        escrow.sweep(terms);
        _capture(terms, NONCE, HELD, HELD, false);
        assertEq(usdc.balanceOf(payee), HELD);
        assertEq(usdc.balanceOf(address(escrow)), 0);
    }

    // ---------------------------------------------------------------- token

    /// @dev The hold stays, for another time or for a release.
    function test_reverts_whenTheTokenRefuses() public {
        usdc.blacklist(payee);
        _assertTransferFails();
        usdc.unBlacklist(payee);
        usdc.blacklist(address(escrow));
        _assertTransferFails();
        usdc.unBlacklist(address(escrow));
        usdc.pause();
        _assertTransferFails();
        usdc.unpause();

        uint256 snapshot = vm.snapshotState();
        _capture(terms, NONCE, HELD, HELD, false);
        assertEq(usdc.balanceOf(payee), HELD);
        vm.revertToState(snapshot);
        usdc.blacklist(payee);
        _release(terms, NONCE);
        _assertHeld(0, CAP);
    }

    function test_reverts_whenTheTokenIsHostile() public {
        _upgradeToken(address(new TokenReturningFalse()));
        _assertTransferFails();
        _upgradeToken(address(new TokenReturningNonsense()));
        _assertTransferFails();
        _upgradeToken(address(new TokenRevertingWithABomb()));
        _assertTransferFails();
        vm.etch(address(usdc), "");
        _assertTransferFails();
    }

    function _assertTransferFails() private {
        bool[2] memory closing = [false, true];
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, payee, 5));
            _capture(terms, NONCE, HELD, 5, closing[i]);
            _assertHeld(HELD, CAP - HELD);
        }
    }
}
