// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {IMandateEscrow} from "../../src/interfaces/IMandateEscrow.sol";
import {HoldState, Mandate, Status} from "../../src/interfaces/Types.sol";
import {Handler} from "./Handler.sol";

/// @notice The invariants of MandateEscrow, by their numbers, after any sequence of actions.
contract ConservationTest is Test {
    Handler private handler;
    IMandateEscrow private escrow;

    function setUp() public {
        handler = new Handler();
        handler.setUp();
        escrow = handler.theEscrow();

        bytes4[] memory actions = new bytes4[](13);
        actions[0] = Handler.open.selector;
        actions[1] = Handler.openAgain.selector;
        actions[2] = Handler.spend.selector;
        actions[3] = Handler.settle.selector;
        actions[4] = Handler.revoke.selector;
        actions[5] = Handler.sweep.selector;
        actions[6] = Handler.passTime.selector;
        actions[7] = Handler.donate.selector;
        actions[8] = Handler.toggleBlacklist.selector;
        actions[9] = Handler.hold.selector;
        actions[10] = Handler.capture.selector;
        actions[11] = Handler.release.selector;
        actions[12] = Handler.sweepAtTheEnd.selector;
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

    function invariant_I3_aNoncePaysOrHoldsAtMostOnce() public view {
        assertLe(handler.mostTimesUsed(), 1);
    }

    /// @dev I4, hold by hold: what it has left is what was held, less what was captured and released; and a mandate's
    /// `held` is the sum of what its holds have left, until a sweep takes it.
    function invariant_I4_aHoldEndsAtMostOnce() public view {
        assertEq(handler.capturedOutOfTime(), 0);
        for (uint256 i = 0; i < handler.idCount(); ++i) {
            bytes32 id = handler.ids(i);
            uint32[] memory nonces = handler.booksOf(id).holds;
            uint256 sum = 0;
            for (uint256 j = 0; j < nonces.length; ++j) {
                Handler.HoldBooks memory books = handler.holdBooksOf(id, nonces[j]);
                uint256 left = escrow.holdOf(id, nonces[j]).left;
                assertEq(books.captured + books.released + left, books.held);
                sum += left;
            }
            uint256 held = escrow.mandateOf(id).held;
            if (held != 0 || handler.time() < handler.booksOf(id).terms.captureEnd) assertEq(held, sum);
        }
    }

    function invariant_I5_nothingNewIsPaidOrHeldOutOfTime() public view {
        assertEq(handler.usedOutOfTime(), 0);
        assertEq(handler.reopened(), 0);
        for (uint256 i = 0; i < handler.idCount(); ++i) {
            bytes32 id = handler.ids(i);
            bool ended = escrow.mandateOf(id).status == Status.Ended;
            assertEq(ended, handler.booksOf(id).ended);
        }
    }

    function invariant_I6_theEndKeepsNothingBack() public view {
        assertEq(handler.keptBack(), 0);
    }

    /// @dev I9: what payees have is what `Spent` and `Captured` say, and what operators got back what `Returned` says.
    function invariant_I9_eventsSayWhatMoved() public view {
        uint256 paid = 0;
        uint256 returned = 0;
        for (uint256 i = 0; i < handler.idCount(); ++i) {
            paid += handler.booksOf(handler.ids(i)).paid;
            returned += handler.booksOf(handler.ids(i)).returned;
        }
        assertEq(handler.received(), paid);
        assertEq(handler.operatorReceived(), returned);
    }

    /// @dev A handler that mostly fails proves nothing: on a fixed walk, every action succeeds.
    function test_everyActionSucceedsSometimes() public {
        for (uint256 i = 0; i < 200; ++i) {
            uint256 random = uint256(keccak256(abi.encode(i)));
            uint256 newest = i / 10;
            if (i % 10 == 0) handler.open(uint64(random), uint8(random >> 64), i % 20 == 0);
            handler.spend(newest, uint64(random >> 32), uint32(random >> 96));
            handler.settle(random >> 8, random);
            handler.hold(newest, uint64(random >> 40), uint32(random >> 104));
            handler.hold(newest, uint64(random >> 41), uint32(random >> 105));
            handler.capture(newest, random, uint64(random >> 80), i % 3 == 0);
            handler.release(newest, random, i % 4 == 0);
            if (i % 5 == 0) handler.revoke(random >> 16 | 1, i % 2 == 0);
            handler.sweep(random >> 24);
            handler.sweepAtTheEnd(i);
            handler.passTime(uint32(random >> 128));
        }
        bytes32[9] memory actions =
            [bytes32("open"), "spend", "settle", "hold", "capture", "release", "revoke", "sweep", "sweepAtTheEnd"];
        for (uint256 i = 0; i < actions.length; ++i) {
            assertGt(handler.succeeded(actions[i]), 5, string(abi.encodePacked(actions[i])));
        }
        invariant_I1_theEscrowHoldsWhatIsLeft();
        invariant_I2_everyMandateAddsUp();
        invariant_I3_aNoncePaysOrHoldsAtMostOnce();
        invariant_I4_aHoldEndsAtMostOnce();
        invariant_I5_nothingNewIsPaidOrHeldOutOfTime();
        invariant_I6_theEndKeepsNothingBack();
        invariant_I9_eventsSayWhatMoved();
    }
}
