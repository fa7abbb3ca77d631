// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Vm} from "forge-std/Vm.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Reason, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {TokenReturningFalse} from "../../mocks/HostileTokens.sol";

contract RevokeTest is EscrowTest {
    Terms private terms;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        id = _open(terms);
    }

    function _revokeAs(address sender) private {
        vm.prank(sender);
        escrow.revoke(terms);
    }

    function test_succeeds_afterAnySpending(uint64 spent, bool byAgent) public {
        spent = uint64(bound(spent, 1, CAP));
        _spend(terms, _payment(terms, spent, 0));
        _revokeAs(byAgent ? agent : operator);

        assertEq(escrow.mandateOf(id), Mandate(0, 0, 1, 0, Status.Ended));
        assertEq(usdc.balanceOf(operator), CAP - spent);
        assertEq(usdc.balanceOf(address(escrow)), 0);
    }

    function test_emitsExpectedEvents() public {
        _spend(terms, _payment(terms, 5, 0));
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Revoked(id, agent);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, operator, CAP - 5, 0);
        _revokeAs(agent);
    }

    /// @dev I9: no event stands for a token that did not move.
    function test_emitsNoReturned_whenNothingIsLeft() public {
        _spend(terms, _payment(terms, CAP, 0));
        vm.recordLogs();
        _revokeAs(operator);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 1);
        assertEq(logs[0].topics[0], IMandateEscrow.Revoked.selector);
    }

    function test_succeeds_beforeStartAndAfterExpiry() public {
        _revokeAs(operator);
        terms.intent = "another";
        (terms.start, id) = (NOW + 1, 0);
        _open(terms);
        _revokeAs(operator);
        terms.intent = "and another";
        _open(terms);
        vm.warp(terms.captureEnd);
        _revokeAs(operator);
        assertEq(usdc.balanceOf(operator), 3 * CAP);
    }

    /// @dev I5: final from this block on.
    function test_endsTheMandate() public {
        _revokeAs(operator);
        _assertRefused(terms, _payment(terms, 1, 0), Reason.Ended);
    }

    function test_reverts_forAnybodyElse(address sender) public {
        vm.assume(sender != operator && sender != agent);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotOperatorOrAgent.selector, sender, operator, agent));
        _revokeAs(sender);
    }

    function test_reverts_whenTheMandateIsUnknown() public {
        terms.intent = "unknown";
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms)));
        _revokeAs(operator);
    }

    function test_reverts_whenRevokedOrSweptBefore() public {
        _revokeAs(operator);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, id));
        _revokeAs(agent);

        terms.intent = "another";
        id = _open(terms);
        vm.warp(terms.expiry);
        escrow.sweep(terms);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, id));
        _revokeAs(operator);
    }

    // ---------------------------------------------------------------- holds

    /// @dev A revocation takes nothing from the payee of a hold, and lets no new one be made.
    function test_returnsWhatIsNotHeld(uint64 held, uint64 spent) public {
        held = uint64(bound(held, 1, CAP - 1));
        spent = uint64(bound(spent, 0, CAP - held - 1));
        _hold(terms, _holdOf(terms, held, 0));
        if (spent != 0) _spend(terms, _payment(terms, spent, 1));

        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, operator, CAP - held - spent, 0);
        _revokeAs(operator);
        assertEq(escrow.mandateOf(id), Mandate(0, held, spent == 0 ? 1 : 3, 0, Status.Ended));
        assertEq(escrow.holdOf(id, 0).left, held);
        assertEq(usdc.balanceOf(address(escrow)), held);
        _assertRefused(terms, _holdOf(terms, 1, 2), Reason.Ended);
    }

    /// @dev I9.
    function test_emitsNoReturned_whenAllIsHeld() public {
        _hold(terms, _holdOf(terms, CAP, 0));
        vm.recordLogs();
        _revokeAs(operator);
        assertEq(vm.getRecordedLogs().length, 1);
        assertEq(escrow.mandateOf(id), Mandate(0, CAP, 1, 0, Status.Ended));
    }

    /// @dev From captureEnd on nothing is held any more.
    function test_returnsEverything_fromCaptureEndOn() public {
        _hold(terms, _holdOf(terms, 7, 0));
        uint256 snapshot = vm.snapshotState();
        vm.warp(terms.captureEnd - 1);
        _revokeAs(operator);
        assertEq(usdc.balanceOf(operator), CAP - 7);
        vm.revertToState(snapshot);

        vm.warp(terms.captureEnd);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, operator, CAP - 7, 7);
        _revokeAs(operator);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 1, 0, Status.Ended));
        assertEq(usdc.balanceOf(operator), CAP);
    }

    /// @dev What was held and what was not are told apart again, when the token refuses.
    function test_keepsWhatIsHeldApart_whenTheTokenRefuses() public {
        _hold(terms, _holdOf(terms, 7, 0));
        usdc.blacklist(operator);
        uint256 snapshot = vm.snapshotState();
        _revokeAs(operator);
        assertEq(escrow.mandateOf(id), Mandate(CAP - 7, 7, 1, 0, Status.Ended));
        vm.revertToState(snapshot);

        vm.warp(terms.captureEnd);
        _revokeAs(operator);
        assertEq(escrow.mandateOf(id), Mandate(CAP - 7, 7, 1, 0, Status.Ended));
        usdc.unBlacklist(operator);
        assertEq(escrow.sweep(terms), CAP);
    }

    /// @dev I2: what refunds restored goes back, too.
    function test_returnsWhatRefundsRestored() public {
        terms.refundsRestoreBudget = true;
        id = _open(terms);
        _spend(terms, _payment(terms, CAP, 0));
        vm.startPrank(payee);
        usdc.approve(address(escrow), 5);
        escrow.refund(terms, 5, 0);
        vm.stopPrank();
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, operator, 5, 0);
        _revokeAs(operator);
    }

    // ---------------------------------------------------------------- token

    /// @dev The mandate ends even if the money cannot move; a sweep returns it once it can.
    function test_succeeds_whenTheTokenRefuses() public {
        usdc.blacklist(operator);
        _assertEndsWithoutReturning();
        usdc.unBlacklist(operator);
        escrow.sweep(terms);
        assertEq(usdc.balanceOf(operator), CAP);
    }

    function test_succeeds_whileTheTokenIsPaused() public {
        usdc.pause();
        _assertEndsWithoutReturning();
        usdc.unpause();
        escrow.sweep(terms);
        assertEq(usdc.balanceOf(operator), CAP);
    }

    function test_succeeds_whenTheTokenReturnsFalse() public {
        _upgradeToken(address(new TokenReturningFalse()));
        _assertEndsWithoutReturning();
    }

    function _assertEndsWithoutReturning() private {
        vm.recordLogs();
        _revokeAs(operator);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 1);
        assertEq(logs[0].topics[0], IMandateEscrow.Revoked.selector);
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Ended));
    }
}
