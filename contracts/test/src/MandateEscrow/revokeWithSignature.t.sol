// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Vm} from "forge-std/Vm.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Payment, Reason, Status, Terms} from "../../../src/interfaces/Types.sol";
import {OperatorMessageTest} from "../../base/OperatorMessageTest.sol";
import {TokenReturningFalse, TokenReturningNonsense, TokenRevertingWithABomb} from "../../mocks/HostileTokens.sol";

contract RevokeWithSignatureTest is OperatorMessageTest {
    Terms private terms;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        terms.intent = "revoked";
        id = _open(terms);
    }

    function _prepare(Terms memory of_) internal override {
        _open(of_);
    }

    function _message(Terms memory of_) internal view override returns (bytes32) {
        return _revokeDigest(escrow.idOf(of_));
    }

    function _carry(Terms memory of_, bytes memory signature) internal pure override returns (bytes memory) {
        return abi.encodeCall(IMandateEscrow.revokeWithSignature, (of_, signature));
    }

    function _revoke() private {
        _send(terms, _sign(operatorKey, _message(terms)));
    }

    function test_succeeds_whoeverSendsIt(address sender) public {
        bytes memory signature = _sign(operatorKey, _message(terms));
        vm.prank(sender);
        escrow.revokeWithSignature(terms, signature);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 0, 0, Status.Ended));
        assertEq(usdc.balanceOf(operator), CAP);
    }

    /// @dev The operator's word ended it, whoever carried it.
    function test_emitsExpectedEvents() public {
        _spend(terms, _payment(terms, 5, 0));
        _hold(terms, _holdOf(terms, 7, 1));
        bytes memory signature = _sign(operatorKey, _message(terms));
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Revoked(id, operator);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Returned(id, operator, CAP - 12, 0);
        vm.prank(stranger);
        escrow.revokeWithSignature(terms, signature);
    }

    /// @dev I5, I9: in every second and every state, exactly what the operator's own call does, events and all.
    function test_doesWhatRevokeDoes(uint64 spent, uint64 held, uint40 time, bool blacklisted) public {
        spent = uint64(bound(spent, 1, CAP - 1));
        held = uint64(bound(held, 1, CAP - spent));
        _spend(terms, _payment(terms, spent, 0));
        _hold(terms, _holdOf(terms, held, 1));
        vm.warp(bound(time, terms.captureEnd - 2, terms.captureEnd + 2));
        if (blacklisted) usdc.blacklist(operator);
        uint256 snapshot = vm.snapshotState();

        vm.recordLogs();
        vm.prank(operator);
        escrow.revoke(terms);
        bytes32 expected = _outcome();
        vm.revertToState(snapshot);

        vm.recordLogs();
        _revoke();
        assertEq(_outcome(), expected);
    }

    function _outcome() private returns (bytes32) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        return keccak256(abi.encode(logs, escrow.mandateOf(id), escrow.holdOf(id, 1), usdc.balanceOf(operator)));
    }

    /// @dev It has no deadline: before start, after expiry, and from captureEnd on.
    function test_succeeds_atAnyTime() public {
        Terms memory early = _terms();
        early.start = NOW + 1;
        _open(early);
        _send(early, _sign(operatorKey, _message(early)));

        bytes memory signature = _sign(operatorKey, _message(terms));
        for (uint40 i = 0; i < 3; ++i) {
            uint256 snapshot = vm.snapshotState();
            vm.warp(terms.expiry - 1 + i);
            _send(terms, signature);
            vm.revertToState(snapshot);
            vm.warp(terms.captureEnd - 1 + i);
            _send(terms, signature);
            vm.revertToState(snapshot);
        }
    }

    /// @dev And none before the opening either: sent then, it withdraws the terms; sent later, it ends the mandate.
    function test_succeeds_beforeTheOpeningAndAfterIt() public {
        Terms memory later = _terms();
        bytes memory signature = _sign(operatorKey, _message(later));
        uint256 snapshot = vm.snapshotState();
        _open(later);
        _send(later, signature);
        assertEq(usdc.balanceOf(operator), CAP);
        vm.revertToState(snapshot);

        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Revoked(_idOf(later), operator);
        _send(later, signature);
        _fund(operator, CAP);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, _idOf(later)));
        vm.prank(operator);
        escrow.open(later);
    }

    function test_reverts_theSecondTime() public {
        _revoke();
        _assertAlreadyEnded();
    }

    function test_reverts_afterARevokeOrASweep() public {
        uint256 snapshot = vm.snapshotState();
        vm.prank(agent);
        escrow.revoke(terms);
        _assertAlreadyEnded();
        vm.revertToState(snapshot);

        vm.warp(terms.expiry);
        escrow.sweep(terms);
        _assertAlreadyEnded();
    }

    function _assertAlreadyEnded() private {
        bytes memory refusal = abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, id);
        _assertReverts(terms, _sign(operatorKey, _message(terms)), refusal);
    }

    /// @dev I5.
    function test_endsTheMandate() public {
        _revoke();
        _assertRefused(terms, _payment(terms, 1, 0), Reason.Ended);
        _assertRefused(terms, _holdOf(terms, 1, 0), Reason.Ended);
    }

    /// @dev Each message has a type of its own: no other word of the operator, nor of the agent, ends a mandate.
    function test_reverts_whenTheSignatureIsOfAnotherMessage() public {
        Payment memory payment = _payment(terms, 5, 0);
        _assertNotSigned(terms, _sign(operatorKey, _termsDigest(terms)));
        _assertNotSigned(terms, _sign(operatorKey, _sweepDigest(id, operator, type(uint40).max)));
        _assertNotSigned(terms, _sign(operatorKey, _spendDigest(id, payment)));
        _assertNotSigned(terms, _sign(agentKey, _spendDigest(id, payment)));
        _assertNotSigned(terms, _permit(CAP, NOW));
    }

    /// @dev A zero address recovers from junk; no mandate is its.
    function test_reverts_whenTheOperatorIsZero() public {
        terms.operator = address(0);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms)));
        escrow.revokeWithSignature(terms, "x");
    }

    // ---------------------------------------------------------------- token

    /// @dev The mandate ends even if the money cannot move: Revoked without Returned, and a sweep later.
    function test_succeeds_whenTheTokenRefuses() public {
        uint256 snapshot = vm.snapshotState();
        usdc.blacklist(operator);
        _assertEndsWithoutReturning();
        usdc.unBlacklist(operator);
        assertEq(escrow.sweep(terms), CAP);
        vm.revertToState(snapshot);

        usdc.pause();
        _assertEndsWithoutReturning();
        vm.revertToState(snapshot);

        address[3] memory tokens = [
            address(new TokenReturningFalse()),
            address(new TokenReturningNonsense()),
            address(new TokenRevertingWithABomb())
        ];
        snapshot = vm.snapshotState();
        for (uint256 i = 0; i < tokens.length; ++i) {
            _upgradeToken(tokens[i]);
            _assertEndsWithoutReturning();
            vm.revertToState(snapshot);
        }
    }

    function _assertEndsWithoutReturning() private {
        vm.recordLogs();
        _revoke();
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 1);
        assertEq(logs[0].topics[0], IMandateEscrow.Revoked.selector);
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Ended));
    }

    /// @dev Who carries it chooses the gas. Whatever it is: nothing happens, or the mandate ends and its money is back, or
    /// waits for a sweep.
    function test_losesNothing_atAnyGas() public {
        bytes memory signature = _sign(operatorKey, _message(terms));
        uint256 ended = 0;
        uint256 reverted = 0;
        uint256 snapshot = vm.snapshotState();
        for (uint256 gas_ = 22_000; gas_ < 140_000; gas_ += 499) {
            (bool ok,) = _try(terms, signature, gas_);
            if (ok) ++ended;
            else ++reverted;
            Mandate memory mandate = escrow.mandateOf(id);
            assertEq(mandate.status, ok ? Status.Ended : Status.Open);
            assertEq(mandate.remaining + usdc.balanceOf(operator), CAP);
            assertEq(usdc.balanceOf(address(escrow)), mandate.remaining);
            if (ok && mandate.remaining != 0) assertEq(escrow.sweep(terms), CAP);
            vm.revertToState(snapshot);
        }
        assertGt(ended, 10);
        assertGt(reverted, 10);
    }
}
