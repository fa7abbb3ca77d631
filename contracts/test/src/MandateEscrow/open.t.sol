// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {TokenDeliveringMore, TokenShrinkingTheReceiver, TokenTakingAFee} from "../../mocks/HostileTokens.sol";

contract OpenTest is EscrowTest {
    /// @dev Fills every field with what `open` takes.
    function _sound(Terms memory terms, uint64 cap) internal view {
        terms.operator = operator;
        terms.cap = uint64(bound(terms.cap, 1, cap));
        terms.perPayment = uint64(bound(terms.perPayment, 0, terms.cap));
        if (terms.window == 0) terms.windowCap = 0;
        else terms.windowCap = uint64(bound(terms.windowCap, 1, terms.cap));
        terms.expiry = uint40(bound(terms.expiry, NOW + 1, type(uint32).max));
        terms.captureEnd = uint40(bound(terms.captureEnd, terms.expiry, _latestCaptureEnd(terms.expiry)));
        terms.start = uint40(bound(terms.start, 0, terms.expiry - 1));
        if (terms.agent == address(0)) terms.agent = agent;
    }

    function test_succeeds_withAnySoundTerms(Terms memory terms) public {
        _sound(terms, type(uint64).max);
        bytes32 id = _open(terms);

        assertEq(id, _idOf(terms));
        assertEq(id, escrow.idOf(terms));
        assertEq(escrow.mandateOf(id), Mandate(terms.cap, 0, 0, 0, Status.Open));
        assertEq(usdc.balanceOf(address(escrow)), terms.cap);
        assertEq(usdc.balanceOf(operator), 0);
    }

    function test_succeeds_atTypeMaxima() public {
        Terms memory terms = _terms();
        (terms.cap, terms.perPayment) = (type(uint64).max, type(uint64).max);
        (terms.start, terms.expiry, terms.captureEnd) = (type(uint32).max - 1, type(uint32).max, type(uint32).max);
        _open(terms);
    }

    function test_emitsExpectedEvents() public {
        Terms memory terms = _terms();
        _fund(operator, CAP);

        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Opened(_idOf(terms), operator, agent, terms);
        vm.prank(operator);
        escrow.open(terms);
    }

    function test_succeeds_twiceWithAnotherIntent() public {
        Terms memory terms = _terms();
        bytes32 first = _open(terms);
        terms.intent = keccak256("another");
        bytes32 second = _open(terms);

        assertNotEq(first, second);
        assertEq(usdc.balanceOf(address(escrow)), 2 * CAP);
    }

    // ---------------------------------------------------------------- who

    /// @dev I7: an allowance approves no terms.
    function test_reverts_whenAStrangerUsesTheAllowance(address caller) public {
        vm.assume(caller != operator);
        Terms memory terms = _terms();
        terms.agent = caller;
        _fund(operator, CAP);

        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotOperator.selector, caller, operator));
        vm.prank(caller);
        escrow.open(terms);
    }

    function test_reverts_whenOpenedTwice() public {
        Terms memory terms = _terms();
        bytes32 id = _open(terms);
        _assertRefusedToOpen(terms, abi.encodeWithSelector(IMandateEscrow.AlreadyOpened.selector, id));
    }

    /// @dev I5: closed terms never reopen.
    function test_reverts_whenOpenedAgainAfterTheEnd() public {
        Terms memory terms = _terms();
        bytes32 id = _open(terms);
        vm.prank(operator);
        escrow.revoke(terms);
        _assertRefusedToOpen(terms, abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, id));

        vm.warp(terms.captureEnd);
        _assertRefusedToOpen(terms, abi.encodeWithSelector(IMandateEscrow.AlreadyEnded.selector, id));
    }

    // ---------------------------------------------------------------- terms

    function test_reverts_whenOperatorIsZero() public {
        Terms memory terms = _terms();
        terms.operator = address(0);
        vm.expectRevert(IMandateEscrow.OperatorIsZero.selector);
        vm.prank(address(0));
        escrow.open(terms);
    }

    function test_reverts_whenAgentIsZero() public {
        Terms memory terms = _terms();
        terms.agent = address(0);
        _assertRefusedToOpen(terms, abi.encodeWithSelector(IMandateEscrow.AgentIsZero.selector));
    }

    function test_reverts_whenCapIsZero() public {
        Terms memory terms = _terms();
        terms.cap = 0;
        _assertRefusedToOpen(terms, abi.encodeWithSelector(IMandateEscrow.CapIsZero.selector));
    }

    function test_reverts_whenStartIsNotBeforeExpiry(uint40 start) public {
        Terms memory terms = _terms();
        terms.start = uint40(bound(start, terms.expiry, type(uint40).max));
        _assertRefusedToOpen(
            terms, abi.encodeWithSelector(IMandateEscrow.StartNotBeforeExpiry.selector, terms.start, terms.expiry)
        );
        terms.start = terms.expiry - 1;
        _open(terms);
    }

    function test_reverts_whenExpiryIsAfterCaptureEnd(uint40 captureEnd) public {
        Terms memory terms = _terms();
        terms.captureEnd = uint40(bound(captureEnd, 0, terms.expiry - 1));
        _assertRefusedToOpen(
            terms, abi.encodeWithSelector(IMandateEscrow.ExpiryAfterCaptureEnd.selector, terms.expiry, terms.captureEnd)
        );
        terms.captureEnd = terms.expiry;
        _open(terms);
    }

    function _latestCaptureEnd(uint40 expiry) private pure returns (uint40) {
        return expiry > type(uint32).max - 90 days ? type(uint32).max : expiry + 90 days;
    }

    /// @dev What is left can be held until captureEnd, so that is near. Before 2106 ends, what a hold's slot can store is
    /// nearer.
    function test_reverts_whenCaptureEndIsTooLate(uint40 expiry, uint40 captureEnd) public {
        Terms memory terms = _terms();
        terms.expiry = uint40(bound(expiry, NOW + 1, type(uint32).max));
        uint40 latest = _latestCaptureEnd(terms.expiry);
        terms.captureEnd = uint40(bound(captureEnd, latest + 1, type(uint40).max));
        _assertRefusedToOpen(
            terms, abi.encodeWithSelector(IMandateEscrow.CaptureEndTooLate.selector, terms.captureEnd, latest)
        );
        terms.captureEnd = latest;
        _open(terms);
    }

    function test_reverts_whenExpiryIsNotInTheFuture() public {
        Terms memory terms = _terms();
        for (uint256 i = 0; i < 2; ++i) {
            uint256 time = terms.expiry + i;
            vm.warp(time);
            _assertRefusedToOpen(
                terms, abi.encodeWithSelector(IMandateEscrow.ExpiryNotInFuture.selector, terms.expiry, time)
            );
        }
        vm.warp(terms.expiry - 1);
        _open(terms);
    }

    function test_reverts_whenOneOfWindowAndWindowCapIsZero(uint32 window, uint64 windowCap) public {
        Terms memory terms = _terms();
        terms.window = uint32(bound(window, 1, type(uint32).max));
        _assertRefusedToOpen(terms, abi.encodeWithSelector(IMandateEscrow.WindowIncomplete.selector, terms.window, 0));
        (terms.window, terms.windowCap) = (0, uint64(bound(windowCap, 1, type(uint64).max)));
        _assertRefusedToOpen(
            terms, abi.encodeWithSelector(IMandateEscrow.WindowIncomplete.selector, 0, terms.windowCap)
        );
    }

    function test_reverts_whenWindowCapIsAboveCap(uint64 windowCap) public {
        Terms memory terms = _terms();
        terms.window = 1;
        terms.windowCap = uint64(bound(windowCap, CAP + 1, type(uint64).max));
        _assertRefusedToOpen(
            terms, abi.encodeWithSelector(IMandateEscrow.WindowCapAboveCap.selector, terms.windowCap, CAP)
        );
        terms.windowCap = CAP;
        _open(terms);
    }

    function test_reverts_whenPerPaymentIsAboveCap(uint64 perPayment) public {
        Terms memory terms = _terms();
        terms.perPayment = uint64(bound(perPayment, CAP + 1, type(uint64).max));
        _assertRefusedToOpen(
            terms, abi.encodeWithSelector(IMandateEscrow.PerPaymentAboveCap.selector, terms.perPayment, CAP)
        );
        terms.perPayment = CAP;
        _open(terms);
    }

    /// @dev I11: bits that a field cannot hold are refused, not cut off.
    function test_reverts_whenAFieldHasDirtyBits(uint256 field) public {
        uint256[11] memory widths = [uint256(160), 160, 160, 64, 64, 64, 32, 40, 40, 40, 1];
        field = bound(field, 0, 10);
        _fund(operator, CAP);
        bytes memory data = abi.encodeCall(IMandateEscrow.open, (_terms()));
        uint256 word = field < 10 ? field : 12;
        uint256 dirt = 1 << widths[field];
        assembly {
            let place := add(add(data, 0x24), shl(5, word))
            mstore(place, or(mload(place), dirt))
        }
        vm.prank(operator);
        (bool ok,) = address(escrow).call(data);
        assertFalse(ok);
    }

    // ---------------------------------------------------------------- token

    function test_reverts_whenTheAllowanceIsTooSmall() public {
        Terms memory terms = _terms();
        usdc.mint(operator, CAP);
        vm.startPrank(operator);
        usdc.approve(address(escrow), CAP - 1);
        vm.expectRevert("ERC20: transfer amount exceeds allowance");
        escrow.open(terms);
    }

    function test_reverts_whenTheBalanceIsTooSmall() public {
        Terms memory terms = _terms();
        usdc.mint(operator, CAP - 1);
        vm.startPrank(operator);
        usdc.approve(address(escrow), CAP);
        vm.expectRevert("ERC20: transfer amount exceeds balance");
        escrow.open(terms);
    }

    function test_reverts_whenTheTokenIsPausedOrTheOperatorBlacklisted() public {
        Terms memory terms = _terms();
        _fund(operator, CAP);
        usdc.pause();
        _expectToRefuseOpen(terms, "Pausable: paused");
        usdc.unpause();
        usdc.blacklist(operator);
        _expectToRefuseOpen(terms, "Blacklistable: account is blacklisted");
    }

    /// @dev I1.
    function test_reverts_whenTheBalanceDoesNotGrowByTheCap() public {
        usdc.mint(address(escrow), 3 * CAP);
        address[3] memory tokens = [
            address(new TokenTakingAFee()), address(new TokenDeliveringMore()), address(new TokenShrinkingTheReceiver())
        ];
        uint256[3] memory balances = [uint256(4 * CAP - 1), 4 * CAP + 1, 2 * CAP];
        Terms memory terms = _terms();
        for (uint256 i = 0; i < tokens.length; ++i) {
            _fund(operator, CAP + 1);
            _upgradeToken(tokens[i]);
            vm.expectRevert(
                abi.encodeWithSelector(IMandateEscrow.TransferDeltaMismatch.selector, CAP, 3 * CAP, balances[i])
            );
            vm.prank(operator);
            escrow.open(terms);
        }
        assertEq(escrow.mandateOf(_idOf(terms)).status, Status.None);
    }

    function test_takesNoEther() public {
        (bool ok,) = address(escrow).call{value: 1}("");
        assertFalse(ok);
        Terms memory terms = _terms();
        _fund(operator, CAP);
        vm.deal(operator, 1);
        vm.prank(operator);
        (ok,) = address(escrow).call{value: 1}(abi.encodeCall(IMandateEscrow.open, (terms)));
        assertFalse(ok);
    }

    // ---------------------------------------------------------------- constructor

    function test_reverts_whenTheTokenHasNoCode() public {
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TokenWithoutCode.selector, stranger));
        deployCode("MandateEscrow.sol:MandateEscrow", abi.encode(stranger));
    }

    /// @dev What is called USDC elsewhere may have 18 decimals: the largest cap would be 18.4 of it.
    function test_reverts_whenTheTokenHasNotSixDecimals(uint8 decimals) public {
        vm.assume(decimals != 6);
        vm.mockCall(address(usdc), abi.encodeCall(usdc.decimals, ()), abi.encode(decimals));
        vm.expectRevert(
            abi.encodeWithSelector(IMandateEscrow.TokenWithoutSixDecimals.selector, address(usdc), decimals)
        );
        deployCode("MandateEscrow.sol:MandateEscrow", abi.encode(usdc));
    }

    function test_knowsItsToken() public view {
        assertEq(address(escrow.token()), address(usdc));
    }

    function _assertRefusedToOpen(Terms memory terms, bytes memory reason) private {
        _fund(operator, CAP);
        vm.expectRevert(reason);
        vm.prank(operator);
        escrow.open(terms);
    }

    function _expectToRefuseOpen(Terms memory terms, bytes memory reason) private {
        vm.expectRevert(reason);
        vm.prank(operator);
        escrow.open(terms);
    }
}
