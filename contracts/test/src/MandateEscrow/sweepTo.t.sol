// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Hold, Mandate, Payment, Status, Terms} from "../../../src/interfaces/Types.sol";
import {OperatorMessageTest} from "../../base/OperatorMessageTest.sol";
import {TokenReturningFalse, TokenReturningNonsense, TokenRevertingWithABomb} from "../../mocks/HostileTokens.sol";
import {WalletRefusing} from "../../mocks/Wallets.sol";

contract SweepToTest is OperatorMessageTest {
    uint40 private constant DEADLINE = NOW + 100 days;

    address private recipient = makeAddr("recipient");
    Terms private terms;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        terms.intent = "swept";
        id = _open(terms);
    }

    function _prepare(Terms memory of_) internal override {
        vm.warp(NOW);
        _open(of_);
        vm.warp(of_.expiry);
    }

    function _message(Terms memory of_) internal view override returns (bytes32) {
        return _sweepDigest(escrow.idOf(of_), recipient, DEADLINE);
    }

    function _carry(Terms memory of_, bytes memory signature) internal view override returns (bytes memory) {
        return abi.encodeCall(IMandateEscrow.sweepTo, (of_, recipient, DEADLINE, signature));
    }

    function _assertReverts(bytes memory refusal) private {
        _assertReverts(terms, _sign(operatorKey, _message(terms)), refusal);
    }

    function _sweepTo() private returns (uint256) {
        return _sweepTo(recipient, DEADLINE);
    }

    function _sweepTo(address to, uint40 deadline) private returns (uint256) {
        bytes memory signature = _sign(operatorKey, _sweepDigest(id, to, deadline));
        vm.prank(stranger);
        return escrow.sweepTo(terms, to, deadline, signature);
    }

    // ---------------------------------------------------------------- who and where

    /// @dev What it is for: the token refuses the operator, who names somebody whom it does not refuse.
    function test_succeeds_forAnOperatorWhomTheTokenRefuses(address sender) public {
        usdc.blacklist(operator);
        vm.prank(operator);
        escrow.revoke(terms);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, operator, CAP));
        escrow.sweep(terms);

        bytes memory signature = _sign(operatorKey, _message(terms));
        vm.prank(sender);
        assertEq(escrow.sweepTo(terms, recipient, DEADLINE, signature), CAP);
        assertEq(usdc.balanceOf(recipient), CAP);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 0, 0, Status.Ended));
    }

    /// @dev I9.
    function test_emitsExpectedEvents() public {
        _spend(terms, _payment(terms, 5, 0));
        _hold(terms, _holdOf(terms, 7, 1));
        vm.warp(terms.captureEnd);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, recipient, CAP - 12, 7);
        vm.recordLogs();
        _sweepTo();
        assertEq(vm.getRecordedLogs().length, 2); // Returned, and the token's Transfer
    }

    function test_succeeds_toAnyRecipient(address to) public {
        vm.assume(to != address(0) && to != address(escrow) && to != address(usdc));
        vm.warp(terms.expiry);
        uint256 before = usdc.balanceOf(to);
        assertEq(_sweepTo(to, DEADLINE), CAP);
        assertEq(usdc.balanceOf(to), before + CAP);
    }

    function test_reverts_whenTheRecipientIsZeroOrTheEscrowOrTheToken() public {
        vm.warp(terms.expiry);
        address[3] memory bad = [address(0), address(escrow), address(usdc)];
        for (uint256 i = 0; i < bad.length; ++i) {
            bytes memory signature = _sign(operatorKey, _sweepDigest(id, bad[i], DEADLINE));
            vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.BadRecipient.selector, bad[i]));
            escrow.sweepTo(terms, bad[i], DEADLINE, signature);
        }
    }

    /// @dev I7: who carries the message can change neither where the money goes nor how long that is good for.
    function test_reverts_whenRecipientOrDeadlineAreNotAsSigned(address to, uint40 deadline) public {
        vm.assume(to != address(0) && to != address(escrow) && to != address(usdc) && to != recipient);
        deadline = uint40(bound(deadline, terms.expiry + 1, type(uint40).max));
        vm.assume(deadline != DEADLINE);
        vm.warp(terms.expiry);
        bytes memory signature = _sign(operatorKey, _message(terms));
        bytes memory refusal = abi.encodeWithSelector(IMandateEscrow.NotSignedByOperator.selector, operator);
        vm.expectRevert(refusal);
        escrow.sweepTo(terms, to, DEADLINE, signature);
        vm.expectRevert(refusal);
        escrow.sweepTo(terms, recipient, deadline, signature);
    }

    /// @dev I6: the operator's own call is its word, whatever comes with it. So a contract that answers no ERC-1271 has a
    /// way out when the token refuses it.
    function test_succeeds_byTheOperatorsOwnCall_withoutASignature(bytes memory junk) public {
        terms.operator = address(new WalletRefusing());
        id = _open(terms);
        usdc.blacklist(terms.operator);
        vm.warp(terms.captureEnd + 1_000 days);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, terms.operator, CAP));
        escrow.sweep(terms);

        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotSignedByOperator.selector, terms.operator));
        escrow.sweepTo(terms, recipient, type(uint40).max, junk);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, recipient, CAP, 0);
        vm.prank(terms.operator);
        assertEq(escrow.sweepTo(terms, recipient, type(uint40).max, junk), CAP);
        assertEq(usdc.balanceOf(recipient), CAP);
    }

    /// @dev I7: nobody else's call is. The agent ends the mandate; where its money goes is not the agent's to say.
    function test_reverts_withoutAMessage_forAnybodyElse(address sender) public {
        vm.assume(sender != operator);
        vm.warp(terms.expiry);
        address[3] memory others = [sender, agent, submitter];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotSignedByOperator.selector, operator));
            vm.prank(others[i]);
            escrow.sweepTo(terms, recipient, DEADLINE, "");
        }
    }

    /// @dev Everything but the signature is asked of the operator, too.
    function test_reverts_byTheOperatorsOwnCall_fromTheDeadlineOn_toABadRecipient_andBeforeExpiry() public {
        vm.startPrank(operator);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.DeadlinePassed.selector, NOW, uint256(NOW)));
        escrow.sweepTo(terms, recipient, NOW, "");
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.BadRecipient.selector, address(usdc)));
        escrow.sweepTo(terms, address(usdc), DEADLINE, "");
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotEnded.selector, id, terms.expiry));
        escrow.sweepTo(terms, recipient, DEADLINE, "");
    }

    function test_reverts_whenTheSignatureIsOfAnotherMessage() public {
        vm.warp(terms.expiry);
        Payment memory payment = _paymentTo(terms, recipient, CAP, 0);
        _assertNotSigned(terms, _sign(operatorKey, _termsDigest(terms)));
        _assertNotSigned(terms, _sign(operatorKey, _revokeDigest(id)));
        _assertNotSigned(terms, _sign(operatorKey, _spendDigest(id, payment)));
        _assertNotSigned(terms, _sign(agentKey, _spendDigest(id, payment)));
        _assertNotSigned(terms, _permit(CAP, DEADLINE));
    }

    /// @dev A zero address recovers from junk; no mandate is its.
    function test_reverts_whenTheOperatorIsZero() public {
        terms.operator = address(0);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms)));
        escrow.sweepTo(terms, recipient, DEADLINE, "x");
    }

    function test_reverts_whenTheMandateIsUnknown() public {
        terms.intent = "unknown";
        id = _idOf(terms);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, id));
    }

    // ---------------------------------------------------------------- when

    function test_reverts_fromItsDeadlineOn() public {
        vm.warp(terms.expiry);
        for (uint40 i = 0; i < 2; ++i) {
            uint40 deadline = uint40(block.timestamp) - i;
            bytes memory signature = _sign(operatorKey, _sweepDigest(id, recipient, deadline));
            vm.expectRevert(
                abi.encodeWithSelector(IMandateEscrow.DeadlinePassed.selector, deadline, uint256(block.timestamp))
            );
            escrow.sweepTo(terms, recipient, deadline, signature);
        }
        assertEq(_sweepTo(recipient, uint40(block.timestamp) + 1), CAP);
    }

    function test_reverts_beforeExpiry() public {
        vm.warp(terms.expiry - 1);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.NotEnded.selector, id, terms.expiry));

        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 2; ++i) {
            vm.warp(terms.expiry + i);
            assertEq(_sweepTo(), CAP);
            vm.revertToState(snapshot);
        }
        vm.prank(operator);
        escrow.revoke(terms);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));
    }

    /// @dev I6: at captureEnd, and not a second before, what is held goes with the rest.
    function test_takesWhatIsHeld_fromCaptureEndOn() public {
        _hold(terms, _holdOf(terms, 7, 0));
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 3; ++i) {
            vm.warp(terms.captureEnd - 1 + i);
            uint64 fromHeld = i == 0 ? 0 : 7;
            bytes memory signature = _sign(operatorKey, _message(terms));
            vm.expectEmit(true, true, true, true, address(escrow));
            emit IMandateEscrow.Returned(id, recipient, CAP - 7, fromHeld);
            assertEq(escrow.sweepTo(terms, recipient, DEADLINE, signature), CAP - 7 + fromHeld);
            assertEq(escrow.mandateOf(id), Mandate(0, 7 - fromHeld, 1, 0, Status.Ended));
            vm.revertToState(snapshot);
        }
    }

    /// @dev As often as something is left: one message serves for what holds leave behind, too.
    function test_succeeds_again_whenMoreIsLeft() public {
        _hold(terms, _holdOf(terms, 7, 0));
        bytes memory signature = _sign(operatorKey, _message(terms));
        vm.warp(terms.expiry);
        _send(terms, signature);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));

        vm.prank(payee);
        escrow.release(terms, 0);
        _send(terms, signature);
        assertEq(usdc.balanceOf(recipient), CAP);
    }

    /// @dev Whoever comes first with a plain sweep sends it to the operator, if the token pays that.
    function test_reverts_whenSweptBefore() public {
        vm.warp(terms.expiry);
        escrow.sweep(terms);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.NothingToSweep.selector, id));
        assertEq(usdc.balanceOf(operator), CAP);
    }

    /// @dev I1: nothing of another mandate's money, nor of a donation.
    function test_takesNothingOfOthers() public {
        Terms memory other = _terms();
        _open(other);
        usdc.mint(address(escrow), 17);
        vm.warp(terms.expiry);
        assertEq(_sweepTo(), CAP);
        assertEq(usdc.balanceOf(address(escrow)), CAP + 17);
    }

    // ---------------------------------------------------------------- token

    function test_reverts_whenTheTokenRefuses() public {
        vm.warp(terms.expiry);
        bytes memory refusal = abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, recipient, CAP);
        usdc.blacklist(recipient);
        _assertReverts(refusal);
        usdc.unBlacklist(recipient);

        address[3] memory tokens = [
            address(new TokenReturningFalse()),
            address(new TokenReturningNonsense()),
            address(new TokenRevertingWithABomb())
        ];
        for (uint256 i = 0; i < tokens.length; ++i) {
            _upgradeToken(tokens[i]);
            _assertReverts(refusal);
            assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
        }
    }

    /// @dev I11.
    function test_succeeds_atTypeMaxima() public {
        terms.cap = type(uint64).max;
        (terms.expiry, terms.captureEnd) = (type(uint32).max, type(uint32).max);
        id = _open(terms);
        Hold memory hold = _holdOf(terms, type(uint64).max - 1, 0);
        (hold.payment.deadline, hold.captureBy) = (type(uint40).max, type(uint32).max);
        _sign(terms, hold);
        _hold(terms, hold);
        vm.warp(type(uint32).max);
        assertEq(_sweepTo(recipient, type(uint40).max), type(uint64).max);
    }
}
