// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Status, Terms} from "../../../src/Types.sol";
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
