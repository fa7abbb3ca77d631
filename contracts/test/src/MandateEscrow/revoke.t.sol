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

    // ---------------------------------------------------------------- unopened

    /// @dev I5: the operator takes back what it signed. Whatever stands, an allowance or an authorization, opens nothing.
    function test_withdrawsTermsThatNobodyOpened(uint40 time) public {
        terms.intent = "signed";
        id = _idOf(terms);
        bytes memory signature = _signByOperator(id);
        bytes memory authorization = _authorizationByOperator(id);
        _fund(operator, 2 * CAP);

        vm.warp(bound(time, 0, type(uint32).max));
        vm.recordLogs();
        _revokeAs(operator);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 1);
        assertEq(logs[0].topics[0], IMandateEscrow.Revoked.selector);
        assertEq(logs[0].topics[1], id);
        assertEq(logs[0].topics[2], bytes32(uint256(uint160(operator))));
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 0, 0, Status.Ended));

        vm.warp(NOW);
        bytes memory refusal = abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, id);
        vm.expectRevert(refusal);
        _revokeAs(operator);
        vm.expectRevert(refusal);
        _revokeAs(agent);
        vm.expectRevert(refusal);
        vm.prank(operator);
        escrow.open(terms);
        vm.startPrank(stranger);
        vm.expectRevert(refusal);
        escrow.openWithPermit(terms, 0, "", signature);
        vm.expectRevert(refusal);
        escrow.openWithAuthorization(terms, 0, type(uint256).max, authorization);
        vm.stopPrank();
        assertEq(usdc.balanceOf(operator), 2 * CAP);
    }

    /// @dev What was withdrawn is ended for every other verb, too: nothing is paid, held or swept; a refund is the operator's.
    function test_leavesNothingToDo_withWithdrawnTerms() public {
        terms.intent = "signed";
        terms.refundsRestoreBudget = true;
        id = _idOf(terms);
        _revokeAs(operator);
        _assertRefused(terms, _payment(terms, 1, 0), Reason.Ended);
        _assertRefused(terms, _holdOf(terms, 1, 0), Reason.Ended);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));
        escrow.sweep(terms);
        _fund(payee, 5);
        vm.prank(payee);
        escrow.refund(terms, 5, 0);
        assertEq(usdc.balanceOf(operator), 5);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 0, 0, Status.Ended));
    }

    /// @dev The agent ends what is open, and has no say in what its operator is about to open; nor has the zero address,
    /// whose signature junk is.
    function test_reverts_forTermsThatNobodyOpened_unlessTheOperatorRevokes() public {
        terms.intent = "unopened";
        bytes memory refusal = abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms));
        vm.expectRevert(refusal);
        _revokeAs(agent);
        _open(terms);

        terms.operator = address(0);
        refusal = abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms));
        vm.expectRevert(refusal);
        _revokeAs(address(0));
        vm.expectRevert(refusal);
        escrow.revokeWithSignature(terms, "x");
    }

    /// @dev Withdrawing takes nothing of the other mandates' money, nor a donation.
    function test_movesNothing_whenTermsAreWithdrawn() public {
        usdc.mint(address(escrow), 17);
        terms.intent = "unopened";
        _revokeAs(operator);
        assertEq(usdc.balanceOf(address(escrow)), CAP + 17);
    }

    function _signByOperator(bytes32 digest) private view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(operatorKey, digest);
        return abi.encodePacked(r, s, v);
    }

    function _authorizationByOperator(bytes32 nonce) private view returns (bytes memory) {
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                operator,
                address(escrow),
                uint256(CAP),
                uint256(0),
                type(uint256).max,
                nonce
            )
        );
        return _signByOperator(_digest(usdc.DOMAIN_SEPARATOR(), structHash));
    }

    // ---------------------------------------------------------------- ended

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
