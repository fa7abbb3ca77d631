// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {IMandateEscrow} from "../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Status} from "../../src/Types.sol";
import {Handler} from "./Handler.sol";

/// @notice The invariants of MandateEscrow, by their numbers, after any sequence of actions.
contract ConservationTest is Test {
    Handler private handler;
    IMandateEscrow private escrow;

    function setUp() public {
        handler = new Handler();
        handler.setUp();
        escrow = handler.theEscrow();

        bytes4[] memory actions = new bytes4[](9);
        actions[0] = Handler.open.selector;
        actions[1] = Handler.openAgain.selector;
        actions[2] = Handler.spend.selector;
        actions[3] = Handler.settle.selector;
        actions[4] = Handler.revoke.selector;
        actions[5] = Handler.sweep.selector;
        actions[6] = Handler.passTime.selector;
        actions[7] = Handler.donate.selector;
        actions[8] = Handler.toggleBlacklist.selector;
        targetSelector(FuzzSelector(address(handler), actions));
        targetContract(address(handler));
    }

    /// @dev I1, and exactly: what is in the escrow is what mandates have left, and donations.
    function invariant_I1_theEscrowHoldsWhatIsLeft() public view {
        uint256 left = 0;
        for (uint256 i = 0; i < handler.idCount(); ++i) {
            Mandate memory mandate = escrow.mandateOf(handler.ids(i));
            left += mandate.remaining + mandate.held;
        }
        assertEq(handler.balance(), left + handler.donated());
    }

    function invariant_I2_everyMandateAddsUp() public view {
        for (uint256 i = 0; i < handler.idCount(); ++i) {
            bytes32 id = handler.ids(i);
            Mandate memory mandate = escrow.mandateOf(id);
            Handler.Books memory books = handler.booksOf(id);
            assertEq(books.paid + mandate.remaining + mandate.held + books.returned, books.terms.cap);
        }
    }

    function invariant_I3_aNoncePaysAtMostOnce() public view {
        assertLe(handler.mostTimesPaid(), 1);
    }

    function invariant_I5_nothingIsPaidOutOfTime() public view {
        assertEq(handler.paidOutOfTime(), 0);
        assertEq(handler.reopened(), 0);
        for (uint256 i = 0; i < handler.idCount(); ++i) {
            bytes32 id = handler.ids(i);
            bool ended = escrow.mandateOf(id).status == Status.Ended;
            assertEq(ended, handler.booksOf(id).ended);
        }
    }

    /// @dev I9: what payees have is what `Spent` says.
    function invariant_I9_eventsSayWhatMoved() public view {
        uint256 paid = 0;
        for (uint256 i = 0; i < handler.idCount(); ++i) {
            paid += handler.booksOf(handler.ids(i)).paid;
        }
        assertEq(handler.received(), paid);
    }

    /// @dev A handler that mostly fails proves nothing: on a fixed walk, every action succeeds.
    function test_everyActionSucceedsSometimes() public {
        for (uint256 i = 0; i < 200; ++i) {
            uint256 random = uint256(keccak256(abi.encode(i)));
            if (i % 10 == 0) handler.open(uint64(random), uint8(random >> 64), i % 20 == 0);
            handler.spend(random, uint64(random >> 32), uint32(random >> 96));
            handler.settle(random >> 8, random);
            if (i % 5 == 0) handler.revoke(random >> 16 | 1, i % 2 == 0);
            handler.sweep(random >> 24);
            handler.passTime(uint32(random >> 128));
        }
        bytes32[5] memory actions = [bytes32("open"), "spend", "settle", "revoke", "sweep"];
        for (uint256 i = 0; i < actions.length; ++i) {
            assertGt(handler.succeeded(actions[i]), 5, string(abi.encodePacked(actions[i])));
        }
        invariant_I1_theEscrowHoldsWhatIsLeft();
        invariant_I2_everyMandateAddsUp();
        invariant_I5_nothingIsPaidOutOfTime();
        invariant_I9_eventsSayWhatMoved();
    }
}
