// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Status, Terms} from "../../../src/interfaces/Types.sol";
import {OperatorMessageTest} from "../../base/OperatorMessageTest.sol";
import {
    TokenBurningGasForPermits,
    TokenDeliveringMore,
    TokenFeigningPulls,
    TokenIgnoringPermits,
    TokenRefusingPermitsWithABomb,
    TokenReturningFalseToPulls,
    TokenShrinkingTheReceiver,
    TokenTakingAFee
} from "../../mocks/HostileTokens.sol";

/// @notice Two words of the operator: one moves the money (permit or allowance), one approves the terms (its own call, or
/// its signature of them). Neither stands for the other.
contract OpenWithPermitTest is OperatorMessageTest {
    uint256 private constant DEADLINE = NOW + 1 hours;
    bytes4 private constant PERMIT = bytes4(keccak256("permit(address,address,uint256,uint256,bytes)"));

    function _prepare(Terms memory terms) internal override {
        _fund(terms.operator, terms.cap);
    }

    function _message(Terms memory terms) internal view override returns (bytes32) {
        return _digest(escrow.domainSeparator(), _structHash(terms));
    }

    function _structHash(Terms memory terms) private pure returns (bytes32) {
        bytes32 typeHash = keccak256(
            "Terms(address operator,address agent,address guardian,uint64 cap,uint64 perPayment,uint64 windowCap,uint32 window,uint40 start,uint40 expiry,uint40 captureEnd,bytes32 payees,bytes32 intent,bool refundsRestoreBudget)"
        );
        return keccak256(abi.encode(typeHash, terms));
    }

    function _carry(Terms memory terms, bytes memory signature) internal pure override returns (bytes memory) {
        return abi.encodeCall(IMandateEscrow.openWithPermit, (terms, DEADLINE, "", signature));
    }

    function _openAs(address sender, Terms memory terms, bytes memory permit, bytes memory signature)
        private
        returns (bytes32)
    {
        vm.prank(sender);
        return escrow.openWithPermit(terms, DEADLINE, permit, signature);
    }

    // ---------------------------------------------------------------- opening

    function test_succeeds_fromTheOperator() public {
        Terms memory terms = _terms();
        usdc.mint(operator, CAP);
        bytes32 id = _openAs(operator, terms, _permit(CAP, DEADLINE), "");

        assertEq(id, _idOf(terms));
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
        assertEq(usdc.balanceOf(address(escrow)), CAP);
        assertEq(usdc.balanceOf(operator), 0);
        assertEq(usdc.allowance(operator, address(escrow)), 0);
    }

    /// @dev Without ETH, and readable: the wallet shows the permit and the terms.
    function test_succeeds_whoeverSendsWhatTheOperatorSigned(address sender) public {
        Terms memory terms = _terms();
        usdc.mint(operator, CAP);
        bytes32 id = _openAs(sender, terms, _permit(CAP, DEADLINE), _sign(operatorKey, _message(terms)));
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
        assertEq(usdc.balanceOf(operator), 0);
    }

    function test_emitsExpectedEvents() public {
        Terms memory terms = _terms();
        usdc.mint(operator, CAP);
        bytes memory permit = _permit(CAP, DEADLINE);
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Opened(_idOf(terms), operator, agent, terms);
        _openAs(operator, terms, permit, "");
    }

    /// @dev I11.
    function test_succeeds_atTypeMaxima() public {
        Terms memory terms = _terms();
        (terms.cap, terms.perPayment, terms.windowCap) = (type(uint64).max, type(uint64).max, type(uint64).max);
        (terms.start, terms.expiry, terms.captureEnd) = (type(uint32).max - 1, type(uint32).max, type(uint32).max);
        terms.window = type(uint32).max;
        usdc.mint(operator, terms.cap);
        bytes memory permit = _permit(terms.cap, type(uint256).max);
        vm.prank(operator);
        bytes32 id = escrow.openWithPermit(terms, type(uint256).max, permit, "");
        assertEq(escrow.mandateOf(id).remaining, type(uint64).max);
    }

    // ---------------------------------------------------------------- the word for the terms

    /// @dev I7: an allowance approves no terms, whatever the stranger brings along.
    function test_reverts_whenAStrangerUsesTheAllowance(address caller, bytes memory permit, bytes memory signature)
        public
    {
        vm.assume(caller != operator);
        Terms memory terms = _terms();
        terms.agent = caller;
        _fund(operator, CAP);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotSignedByOperator.selector, operator));
        _openAs(caller, terms, permit, signature);
        assertEq(usdc.balanceOf(operator), CAP);
    }

    /// @dev I7: nor does a permit, which the stranger saw on its way; neither in its place, nor as the word for the terms.
    function test_reverts_whenAStrangerUsesThePermit(address caller) public {
        vm.assume(caller != operator);
        Terms memory terms = _terms();
        terms.agent = caller;
        usdc.mint(operator, CAP);
        bytes memory permit = _permit(CAP, DEADLINE);
        bytes memory refusal = abi.encodeWithSelector(IMandateEscrow.NotSignedByOperator.selector, operator);
        vm.expectRevert(refusal);
        _openAs(caller, terms, permit, "");
        vm.expectRevert(refusal);
        _openAs(caller, terms, permit, permit);
        assertEq(usdc.nonces(operator), 0);
    }

    /// @dev I7: the word is for these terms, to the last field.
    function test_reverts_whenAnyFieldOfTheTermsIsChanged(uint256 field, uint256 value) public {
        Terms memory terms = _terms();
        bytes memory signature = _sign(operatorKey, _message(terms));
        _fund(operator, CAP);
        uint256[13] memory words = abi.decode(abi.encode(terms), (uint256[13]));
        uint256[13] memory widths = [uint256(160), 160, 160, 64, 64, 64, 32, 40, 40, 40, 256, 256, 1];
        field = bound(field, 0, 12);
        uint256 before = words[field];
        words[field] = value >> (256 - widths[field]);
        vm.assume(words[field] != before);

        Terms memory changed = abi.decode(abi.encode(words), (Terms));
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotSignedByOperator.selector, changed.operator));
        _openAs(stranger, changed, "", signature);
        _openAs(stranger, terms, "", signature);
    }

    function test_reverts_whenTheSignatureIsOfAnotherMessage() public {
        Terms memory terms = _terms();
        bytes32 id = _idOf(terms);
        _fund(operator, CAP);
        _assertNotSigned(terms, _sign(operatorKey, _revokeDigest(id)));
        _assertNotSigned(terms, _sign(operatorKey, _sweepDigest(id, operator, type(uint40).max)));
        _assertNotSigned(terms, _sign(operatorKey, _spendDigest(id, _payment(terms, 5, 0))));
    }

    // ---------------------------------------------------------------- again

    /// @dev I5: one word, one mandate; not again while it is open, and not after its end.
    function test_reverts_whenReplayed() public {
        Terms memory terms = _terms();
        bytes memory signature = _sign(operatorKey, _message(terms));
        _fund(operator, 3 * CAP);
        bytes32 id = _openAs(stranger, terms, "", signature);
        bytes memory refusal = abi.encodeWithSelector(IMandateEscrow.AlreadyOpened.selector, id);

        _assertReverts(terms, signature, refusal);
        vm.expectRevert(refusal);
        vm.prank(operator);
        escrow.open(terms);
        vm.prank(operator);
        escrow.revoke(terms);
        refusal = abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, id);
        _assertReverts(terms, signature, refusal);
        vm.warp(terms.captureEnd);
        _assertReverts(terms, signature, refusal);
        assertEq(usdc.balanceOf(operator), 3 * CAP);
    }

    function test_reverts_whenOpenedByAllowanceBefore() public {
        Terms memory terms = _terms();
        bytes memory signature = _sign(operatorKey, _message(terms));
        bytes32 id = _open(terms);
        _fund(operator, CAP);
        _assertReverts(terms, signature, abi.encodeWithSelector(IMandateEscrow.AlreadyOpened.selector, id));
    }

    /// @dev What was signed and never opened stays good while there is an allowance; without one it opens nothing.
    function test_reverts_onceTheAllowanceIsWithdrawn() public {
        Terms memory terms = _terms();
        bytes memory signature = _sign(operatorKey, _message(terms));
        _fund(operator, CAP);
        uint256 snapshot = vm.snapshotState();
        vm.prank(operator);
        usdc.approve(address(escrow), CAP - 1);
        vm.expectRevert("ERC20: transfer amount exceeds allowance");
        _openAs(stranger, terms, "", signature);
        vm.revertToState(snapshot);

        vm.warp(terms.expiry - 1);
        _send(terms, signature);
        vm.revertToState(snapshot);
        for (uint256 i = 0; i < 2; ++i) {
            uint256 time = terms.expiry + i;
            vm.warp(time);
            _assertReverts(
                terms, signature, abi.encodeWithSelector(IMandateEscrow.ExpiryNotInFuture.selector, terms.expiry, time)
            );
        }
    }

    /// @dev Or the operator withdraws the terms, and its other openings keep their allowance.
    function test_reverts_onceTheTermsAreWithdrawn() public {
        Terms memory terms = _terms();
        bytes memory signature = _sign(operatorKey, _message(terms));
        _fund(operator, CAP);
        vm.prank(operator);
        escrow.revoke(terms);
        _assertReverts(terms, signature, abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, _idOf(terms)));
        assertEq(usdc.allowance(operator, address(escrow)), CAP);
        terms.intent = "another";
        _send(terms, _sign(operatorKey, _message(terms)));
    }

    // ---------------------------------------------------------------- the permit

    /// @dev Whoever takes the permit to the token first has only made the allowance that was wanted.
    function test_succeeds_whenThePermitWasSpentBefore() public {
        Terms memory terms = _terms();
        usdc.mint(operator, CAP);
        bytes memory permit = _permit(CAP, DEADLINE);
        vm.prank(stranger);
        usdc.permit(operator, address(escrow), CAP, DEADLINE, permit);
        _openAs(operator, terms, permit, "");
        assertEq(usdc.balanceOf(address(escrow)), CAP);
    }

    function test_succeeds_byAnAllowance_withAnyPermit(bytes memory permit, uint256 deadline) public {
        Terms memory terms = _terms();
        _fund(operator, CAP);
        vm.prank(operator);
        escrow.openWithPermit(terms, deadline, permit, "");
        assertEq(usdc.balanceOf(address(escrow)), CAP);
    }

    /// @dev A permit sets the allowance, so it also ends a larger one.
    function test_leavesNoAllowance_ofALargerOne() public {
        Terms memory terms = _terms();
        _fund(operator, 3 * CAP);
        _openAs(operator, terms, _permit(CAP, DEADLINE), "");
        assertEq(usdc.allowance(operator, address(escrow)), 0);
    }

    /// @dev The token's rule: good at its deadline, and not a second after.
    function test_reverts_afterThePermitsDeadline() public {
        Terms memory terms = _terms();
        usdc.mint(operator, CAP);
        bytes memory permit = _permit(CAP, DEADLINE);
        vm.warp(DEADLINE + 1);
        vm.expectRevert("ERC20: transfer amount exceeds allowance");
        _openAs(operator, terms, permit, "");
        vm.warp(DEADLINE);
        _openAs(operator, terms, permit, "");
    }

    /// @dev A permit of another amount is no permit here. If somebody takes a larger one to the token, what is beyond the
    /// cap stays an allowance, which approves nothing.
    function test_reverts_whenThePermitIsForAnotherAmount() public {
        Terms memory terms = _terms();
        usdc.mint(operator, 2 * CAP);
        bytes memory less = _permit(CAP - 1, DEADLINE);
        bytes memory more = _permit(2 * CAP, DEADLINE);
        bytes memory refusal = "ERC20: transfer amount exceeds allowance";
        vm.expectRevert(refusal);
        _openAs(operator, terms, less, "");
        vm.expectRevert(refusal);
        _openAs(operator, terms, more, "");

        uint256 snapshot = vm.snapshotState();
        usdc.permit(operator, address(escrow), CAP - 1, DEADLINE, less);
        vm.expectRevert(refusal);
        _openAs(operator, terms, less, "");
        assertEq(escrow.mandateOf(_idOf(terms)).status, Status.None);
        vm.revertToState(snapshot);

        usdc.permit(operator, address(escrow), 2 * CAP, DEADLINE, more);
        _openAs(operator, terms, more, "");
        assertEq(usdc.allowance(operator, address(escrow)), CAP);
        terms.intent = "beyond";
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotSignedByOperator.selector, operator));
        _openAs(stranger, terms, more, "");
    }

    /// @dev The token does not take the key of an account with code. The terms are the operator's word all the same, so an
    /// allowance opens them.
    function test_succeeds_forAnEIP7702Operator_byAllowanceAlone() public {
        vm.signAndAttachDelegation(address(new TokenIgnoringPermits()), operatorKey);
        Terms memory terms = _terms();
        usdc.mint(operator, CAP);
        assertEq(operator.code.length, 23);
        bytes memory permit = _permit(CAP, DEADLINE);
        bytes memory signature = _sign(operatorKey, _message(terms));
        vm.expectRevert("ERC20: transfer amount exceeds allowance");
        _openAs(stranger, terms, permit, signature);
        vm.prank(operator);
        usdc.approve(address(escrow), CAP);
        _openAs(stranger, terms, permit, signature);
    }

    // ---------------------------------------------------------------- terms and token

    function test_reverts_whenTheOperatorIsZero() public {
        Terms memory terms = _terms();
        terms.operator = address(0);
        vm.expectRevert(IMandateEscrow.OperatorIsZero.selector);
        _openAs(stranger, terms, "", "x");
        vm.expectRevert(IMandateEscrow.OperatorIsZero.selector);
        _openAs(address(0), terms, "", "");
    }

    function test_reverts_whenTheTermsAreUnsound() public {
        Terms memory terms = _terms();
        terms.agent = address(0);
        _fund(operator, CAP);
        _assertReverts(
            terms, _sign(operatorKey, _message(terms)), abi.encodeWithSelector(IMandateEscrow.AgentIsZero.selector)
        );
    }

    function test_reverts_whenTheTokenIsPausedOrTheOperatorBlacklisted() public {
        Terms memory terms = _terms();
        usdc.mint(operator, CAP);
        bytes memory permit = _permit(CAP, DEADLINE);
        usdc.pause();
        vm.expectRevert("Pausable: paused");
        _openAs(operator, terms, permit, "");
        usdc.unpause();
        usdc.blacklist(operator);
        vm.expectRevert("Blacklistable: account is blacklisted");
        _openAs(operator, terms, permit, "");
        usdc.unBlacklist(operator);
        _openAs(operator, terms, permit, "");
    }

    /// @dev However the token fails to permit, an allowance that is there opens.
    function test_succeeds_byAnAllowance_whenTheTokenPermitsNothing() public {
        Terms memory terms = _terms();
        _fund(operator, CAP);
        address[3] memory tokens = [
            address(new TokenIgnoringPermits()),
            address(new TokenRefusingPermitsWithABomb()),
            address(new TokenBurningGasForPermits())
        ];
        uint256[3] memory costs;
        uint256 bomb = 0;
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < tokens.length; ++i) {
            _upgradeToken(tokens[i]);
            uint256 before = gasleft();
            vm.prank(operator);
            escrow.openWithPermit{gas: 16_000_000}(terms, DEADLINE, "x", "");
            costs[i] = before - gasleft();
            assertEq(usdc.balanceOf(address(escrow)), CAP);
            if (i == 1) {
                bomb = _costOfAsking(abi.encodeWithSelector(PERMIT, operator, escrow, CAP, DEADLINE, bytes("x")));
            }
            vm.revertToState(snapshot);
        }
        assertGt(bomb, 3_000_000);
        assertLt(costs[1], costs[0] + bomb + 500_000, "a bomb is not copied");
    }

    /// @dev Without one, nothing opens.
    function test_reverts_whenTheTokenPermitsNothing() public {
        Terms memory terms = _terms();
        usdc.mint(operator, CAP);
        bytes memory permit = _permit(CAP, DEADLINE);
        _upgradeToken(address(new TokenIgnoringPermits()));
        vm.expectRevert("ERC20: transfer amount exceeds allowance");
        _openAs(operator, terms, permit, "");
    }

    /// @dev I1.
    function test_reverts_whenTheBalanceDoesNotGrowByTheCap() public {
        usdc.mint(address(escrow), 3 * CAP);
        usdc.mint(operator, 2 * CAP);
        bytes memory permit = _permit(CAP, DEADLINE);
        address[4] memory tokens = [
            address(new TokenTakingAFee()),
            address(new TokenDeliveringMore()),
            address(new TokenShrinkingTheReceiver()),
            address(new TokenFeigningPulls())
        ];
        uint256[4] memory balances = [uint256(4 * CAP - 1), 4 * CAP + 1, 2 * CAP, 3 * CAP];
        Terms memory terms = _terms();
        for (uint256 i = 0; i < tokens.length; ++i) {
            _upgradeToken(tokens[i]);
            vm.expectRevert(
                abi.encodeWithSelector(IMandateEscrow.TransferDeltaMismatch.selector, CAP, 3 * CAP, balances[i])
            );
            _openAs(operator, terms, permit, "");
        }
        _upgradeToken(address(new TokenReturningFalseToPulls()));
        vm.expectRevert(abi.encodeWithSignature("SafeERC20FailedOperation(address)", usdc));
        _openAs(operator, terms, permit, "");
        assertEq(escrow.mandateOf(_idOf(terms)).status, Status.None);
        assertEq(usdc.nonces(operator), 0);
    }

    // ---------------------------------------------------------------- gas

    /// @dev Who carries it chooses the gas. Whatever it is: all is done, or nothing, and no permit is wasted.
    function test_opensOrDoesNothing_atAnyGas() public {
        Terms memory terms = _terms();
        usdc.mint(operator, CAP);
        bytes memory permit = _permit(CAP, DEADLINE);
        bytes memory signature = _sign(operatorKey, _message(terms));
        bytes memory call = abi.encodeCall(IMandateEscrow.openWithPermit, (terms, DEADLINE, permit, signature));
        uint256 snapshot = vm.snapshotState();
        uint256 opened = 0;
        for (uint256 gas_ = 30_000; gas_ < 260_000; gas_ += 997) {
            (bool ok,) = address(escrow).call{gas: gas_}(call);
            if (ok) ++opened;
            assertEq(escrow.mandateOf(_idOf(terms)).status, ok ? Status.Open : Status.None);
            assertEq(usdc.balanceOf(address(escrow)), ok ? CAP : 0);
            assertEq(usdc.nonces(operator), ok ? 1 : 0);
            vm.revertToState(snapshot);
        }
        assertGt(opened, 10);
    }
}
