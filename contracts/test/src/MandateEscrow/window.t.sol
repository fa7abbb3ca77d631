// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Group, Hold, Payment, Reason, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";

/// @notice The rolling window, by its own words: time is cut into pieces of a sixth of the window, rounded up, and what was
/// committed in the last seven of them counts, in units in which the cap fits 32 bits.
contract WindowTest is EscrowTest {
    uint256 private constant LANE = type(uint32).max;
    uint40 private constant END = type(uint32).max;

    Terms private terms;
    bytes32 private id;

    /// @dev Every commitment that the mandate ever made: the naive model.
    uint256[] private _times;
    uint256[] private _amounts;

    /// @dev Opens a mandate that lasts as long as any can.
    function _openWith(uint32 window, uint64 windowCap, uint64 cap) private {
        terms = _terms();
        terms.refundsRestoreBudget = true;
        (terms.window, terms.windowCap, terms.cap) = (window, windowCap, cap);
        (terms.expiry, terms.captureEnd) = (END, END);
        terms.intent = keccak256(abi.encode(window, windowCap, cap));
        id = _open(terms);
    }

    function _row(uint64 amount, uint32 nonce) private view returns (Payment memory payment) {
        payment = _payment(terms, amount, nonce);
        payment.deadline = type(uint40).max;
        _sign(terms, payment);
    }

    function _holdRow(uint64 amount, uint32 nonce) private view returns (Hold memory hold) {
        hold = _holdOf(terms, amount, nonce);
        (hold.payment.deadline, hold.captureBy) = (type(uint40).max, END);
        _sign(terms, hold);
    }

    function _assertFits(uint64 amount, uint32 nonce) private {
        assertEq(_canSpend(terms, _row(amount, nonce)), Reason.None);
        _spend(terms, _row(amount, nonce));
    }

    function _assertExceeds(uint64 amount, uint32 nonce) private {
        _assertRefused(terms, _row(amount, nonce), Reason.WindowExceeded);
        _assertRefused(terms, _holdRow(amount, nonce), Reason.WindowExceeded);
        _expectSkipped(id, nonce, Reason.WindowExceeded);
        assertEq(_settle(terms, _rows(_row(amount, nonce))), 0);
    }

    /// @dev A sixth of the window, rounded up.
    function _piece() private view returns (uint256) {
        return (uint256(terms.window) + 5) / 6;
    }

    // ---------------------------------------------------------------- how much

    function test_takesTheWindowCap_andNotAUnitMore(uint64 windowCap, uint64 first) public {
        windowCap = uint64(bound(windowCap, 2, LANE - 1));
        first = uint64(bound(first, 1, windowCap - 1));
        _openWith(1 days, windowCap, type(uint64).max);
        _assertExceeds(windowCap + 1, 0);
        _assertFits(first, 0);
        _assertExceeds(windowCap - first + 1, 1);
        _assertFits(windowCap - first, 1);
        _assertExceeds(1, 2);
    }

    /// @dev I11: exact up to the largest cap that fits a lane, which is just below 4,294.967295 USDC.
    function test_isExact_upToTheLastCapThatFitsALane() public {
        _openWith(1 days, uint64(LANE) - 1, type(uint64).max);
        _assertFits(uint64(LANE) - 2, 0);
        _assertExceeds(2, 1);
        _assertFits(1, 1);
        _assertExceeds(1, 2);
    }

    /// @dev From there on in units: what is paid rounds up and the cap rounds down, so that the cap still holds.
    function test_countsInUnits_aboveThat() public {
        _openWith(1 days, uint64(LANE), type(uint64).max);
        _assertExceeds(uint64(LANE), 0);
        _assertFits(uint64(LANE) - 1, 0);
        _assertExceeds(1, 1);

        _openWith(1 days, uint64(LANE) + 1, type(uint64).max);
        _assertFits(uint64(LANE) - 4, 0); // odd: rounds up by one
        _assertExceeds(5, 1);
        _assertFits(3, 1); // and so does this
        _assertExceeds(1, 2);
    }

    /// @dev I8, I11: for any cap, a first payment passes just if it fits, rounded so.
    function test_roundsAgainstTheAgent(uint64 windowCap, uint64 amount) public {
        windowCap = uint64(bound(windowCap, 1, type(uint64).max));
        uint256 unit = _unitOf(windowCap);
        amount = uint64(bound(amount, windowCap - windowCap / 8, _min(windowCap + 2 * unit, type(uint64).max)));
        if (amount == 0) amount = 1;
        _openWith(1 days, windowCap, type(uint64).max);
        if ((uint256(amount) + unit - 1) / unit > windowCap / unit) _assertExceeds(amount, 0);
        else _assertFits(amount, 0);
    }

    /// @dev I11: a unit is 2^33 at the top; the smallest payment takes one.
    function test_succeeds_atTypeMaxima() public {
        _openWith(type(uint32).max, type(uint64).max, type(uint64).max);
        uint64 unit = 1 << 33;
        _assertExceeds(type(uint64).max, 0);
        _assertExceeds(type(uint64).max - unit + 2, 0);
        _assertFits(type(uint64).max - 3 * unit + 1, 0);
        _assertFits(1, 1);
        _assertExceeds(unit + 1, 2);
        _assertFits(unit, 2);
        _assertExceeds(1, 3);

        // A window that is longer than the chain's own time never forgets.
        vm.warp(END - 1);
        _assertExceeds(1, 3);
    }

    /// @dev The largest unit is still smaller than two billionths of its cap.
    function _unitOf(uint256 windowCap) private pure returns (uint256 unit) {
        unit = 1;
        while (windowCap / unit > LANE - 1) unit *= 2;
    }

    function _min(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }

    // ---------------------------------------------------------------- how long

    /// @dev What is committed counts to the end of the sixth piece after its own, and not a second longer.
    function test_forgetsAfterSevenPieces(uint32 window, uint256 within) public {
        window = uint32(bound(window, 1, 1_600_000_000));
        _openWith(window, 10, CAP);
        uint256 piece = _piece();
        uint256 time = NOW + bound(within, 0, 2 * piece);
        vm.warp(time);
        _assertFits(10, 0);
        uint256 forgotten = (time / piece + 7) * piece;
        assertGt(forgotten - time, window, "no sooner than the window");
        assertLe(forgotten - time, 7 * piece, "no later than seven pieces");

        vm.warp(forgotten - 1);
        _assertExceeds(1, 1);
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 2; ++i) {
            vm.warp(forgotten + i);
            _assertExceeds(11, 1);
            _assertFits(10, 1);
            vm.revertToState(snapshot);
        }
    }

    /// @dev At either side of a piece's edge.
    function test_cutsAtTheEdge_andNotASecondBesideIt() public {
        _openWith(6 hours, 10, CAP);
        uint256 edge = (NOW / 1 hours + 2) * 1 hours;
        uint256 open = vm.snapshotState();
        for (uint256 i = 0; i < 3; ++i) {
            vm.warp(edge - 1 + i);
            _assertFits(10, 0);
            uint256 forgotten = i == 0 ? edge + 6 hours : edge + 7 hours;
            vm.warp(forgotten - 1);
            _assertExceeds(1, 1);
            vm.warp(forgotten);
            _assertFits(10, 1);
            vm.revertToState(open);
        }
    }

    /// @dev The limit is at most a sixth longer than asked. A window that is no multiple of six seconds is rounded up to
    /// one first, so that of a second becomes seven.
    function test_isAtMostASixthStricter(uint32 window, uint32 within) public {
        window = uint32(bound(window, 1, 190_000_000)) * 6;
        _openWith(window, 10, CAP);
        vm.warp(NOW + within % window);
        _assertFits(10, 0);
        vm.warp(block.timestamp + window);
        _assertExceeds(1, 1);
        vm.warp(block.timestamp + window / 6);
        _assertFits(10, 1);
    }

    function test_countsSecondsOfAWindowOfOne() public {
        _openWith(1, 10, CAP);
        _assertFits(10, 0);
        vm.warp(NOW + 6);
        _assertExceeds(1, 1);
        vm.warp(NOW + 7);
        _assertFits(10, 1);
    }

    /// @dev Seven pieces, each with an amount of its own, leave one after the other.
    function test_forgetsPieceByPiece() public {
        _openWith(6 hours, 127, CAP);
        uint256 start = (NOW / 1 hours + 1) * 1 hours;
        for (uint32 i = 0; i < 7; ++i) {
            vm.warp(start + i * 1 hours);
            _assertFits(uint64(1) << i, i);
        }
        uint32 nonce = 7;
        for (uint32 i = 0; i < 7; ++i) {
            vm.warp(start + (i + 7) * 1 hours - 1);
            _assertExceeds(1, nonce);
            vm.warp(start + (i + 7) * 1 hours);
            _assertExceeds((uint64(1) << i) + 1, nonce);
            _assertFits(uint64(1) << i, nonce++);
        }
    }

    /// @dev However long nothing happens.
    function test_forgetsAll_afterAnyPause(uint40 pause) public {
        _openWith(6 hours, 10, CAP);
        _assertFits(10, 0);
        vm.warp(bound(pause, NOW + 7 hours, END - 1));
        _assertFits(10, 1);
        _assertExceeds(1, 2);
    }

    // ---------------------------------------------------------------- what counts

    function test_countsHolds_andCapturesNotAgain() public {
        _openWith(1 days, 10, CAP);
        _hold(terms, _holdRow(6, 0));
        _assertExceeds(5, 1);
        _capture(terms, 0, 6, 6, false);
        _assertFits(4, 1);
        _assertExceeds(1, 2);
    }

    /// @dev Releases and refunds bring budget back, and no room.
    function test_givesNoRoomBack() public {
        _openWith(1 days, 10, CAP);
        _hold(terms, _holdRow(6, 0));
        _release(terms, 0);
        _assertExceeds(5, 1);
        _hold(terms, _holdRow(4, 1));
        _capture(terms, 1, 4, 1, true);
        _assertExceeds(1, 2);
        vm.startPrank(payee);
        usdc.approve(address(escrow), 1);
        escrow.refund(terms, 1, 0);
        vm.stopPrank();
        assertEq(escrow.mandateOf(id).remaining, CAP);
        _assertExceeds(1, 2);
    }

    /// @dev What is refused, for whatever reason, takes no room.
    function test_countsNothingThatIsRefused() public {
        _openWith(1 days, 10, CAP);
        Payment memory row = _row(10, 0);
        row.ref = 0;
        _assertRefused(terms, row, Reason.BadSignature);
        usdc.blacklist(payee);
        row = _row(10, 0);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.TransferFailed));
        _spend(terms, row);
        assertEq(_settle(terms, _rows(row)), 0);
        usdc.unBlacklist(payee);
        _assertFits(10, 0);
    }

    function test_countsEachMandateForItself() public {
        _openWith(1 days, 10, CAP);
        Terms memory first = terms;
        _assertFits(10, 0);
        _openWith(1 days, 10, CAP + 1);
        _assertFits(10, 0);
        terms = first;
        id = _idOf(first);
        _assertExceeds(1, 1);
    }

    /// @dev One more slot, for a mandate with a window alone.
    function test_writesOneSlotMore() public {
        _openWith(1 days, 10, CAP);
        assertEq(_slotsWritten(terms, _row(5, 0)), 2);
        terms = _terms();
        _open(terms);
        assertEq(_slotsWritten(terms, _row(5, 0)), 1);
    }

    function _slotsWritten(Terms memory of_, Payment memory payment) private returns (uint256) {
        vm.record();
        _spend(of_, payment);
        (, bytes32[] memory writes) = vm.accesses(address(escrow));
        return writes.length;
    }

    // ---------------------------------------------------------------- batches

    /// @dev A row that does not fit costs the rows behind it nothing.
    function test_skipsTheRowThatDoesNotFit() public {
        _openWith(1 days, 10, CAP);
        _expectSkipped(id, 1, Reason.WindowExceeded);
        assertEq(_settle(terms, _rows(_row(7, 0), _row(4, 1), _row(3, 2))), 2);
        _assertExceeds(1, 3);
        assertEq(usdc.balanceOf(payee), 10);
    }

    /// @dev I10: what a run that the token refused had taken is there again for the next one, wherever that is; what was
    /// counted before stays counted.
    function test_restoresTheRoom_ofARunThatTheTokenRefuses(uint256 place) public {
        _openWith(1 days, 10, CAP);
        place = bound(place, 0, 2);
        address[3] memory to = [makeAddr("alice"), makeAddr("bob"), makeAddr("carol")];
        usdc.blacklist(to[place]);
        Payment[] memory rows = new Payment[](6);
        for (uint32 i = 0; i < 6; ++i) {
            bool refused = i / 2 == place;
            rows[i] = _paymentTo(terms, to[i / 2], refused ? 3 : 2, i);
        }
        // Places 0 and 1: the runs behind find all the room. Place 2: the first two runs took 8 of 10, and the refused rows
        // get one answer each.
        if (place == 2) _expectSkipped(id, 4, Reason.WindowExceeded);
        assertEq(_settle(terms, rows), 4);
        _assertFits(2, 6);
        _assertExceeds(1, 7);
    }

    /// @dev Neither does a batch that paid nothing leave a trace.
    function test_storesNothing_whenNoRunPays() public {
        _openWith(1 days, 10, CAP);
        usdc.pause();
        assertEq(_settle(terms, _rows(_row(5, 0), _row(5, 1))), 0);
        usdc.unpause();
        _assertFits(10, 0);
    }

    /// @dev A mandate that comes in two groups of one batch has one window.
    function test_countsOverTheGroupsOfABatch() public {
        _openWith(1 days, 10, CAP);
        Group[] memory groups = new Group[](2);
        groups[0] = Group(terms, _rows(_row(7, 0)));
        groups[1] = Group(terms, _rows(_row(4, 1), _row(3, 2)));
        _expectSkipped(id, 1, Reason.WindowExceeded);
        assertEq(_settle(groups), 2);
    }

    // ---------------------------------------------------------------- against the naive model

    /// @dev I8: whatever is tried, and whenever, no interval of the window's length takes more than its cap; and nothing is
    /// refused that the last seven pieces leave room for. Payments, rows and holds by turns, and the views asked before.
    /// forge-config: default.fuzz.runs = 100
    function test_holdsInEveryInterval(uint32 window, uint64 windowCap, uint256 seed) public {
        window = uint32(bound(window, 1, seed % 3 == 0 ? 100 : 30_000_000));
        windowCap = uint64(bound(windowCap, 1, seed % 5 == 0 ? type(uint64).max : LANE + 9));
        _openWith(window, windowCap, type(uint64).max);
        delete _times;
        delete _amounts;
        for (uint32 i = 0; i < 24; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            vm.warp(block.timestamp + _pause(seed >> 128));
            uint64 amount = uint64(bound(uint64(seed), 1, uint256(windowCap) / (1 + (seed >> 64) % 9) + 1));
            Reason reason = _fitsByTheModel(amount) ? Reason.None : Reason.WindowExceeded;
            if (amount > escrow.mandateOf(id).remaining) reason = Reason.InsufficientBudget;
            _try(amount, i, seed >> 96, reason);
            if (reason == Reason.None) {
                _times.push(block.timestamp);
                _amounts.push(amount);
                assertLe(_committedIn(block.timestamp - terms.window, block.timestamp), windowCap);
            }
        }
        for (uint256 i = 0; i < _times.length; ++i) {
            assertLe(_committedIn(_times[i], _times[i] + terms.window), windowCap);
        }
    }

    /// @dev Nothing, or a little, or close to a whole number of pieces.
    function _pause(uint256 seed) private view returns (uint256) {
        uint256 piece = _piece();
        if (seed % 4 == 0) return 0;
        if (seed % 4 == 1) return (seed >> 8) % (piece + 1);
        uint256 near = piece * ((seed >> 8) % 9) + (seed >> 16) % 3;
        return near == 0 ? 0 : near - 1;
    }

    function _try(uint64 amount, uint32 nonce, uint256 way, Reason reason) private {
        (Payment memory row, Hold memory hold) = (_row(amount, nonce), _holdRow(amount, nonce));
        assertEq(_canSpend(terms, row), reason);
        assertEq(_canHold(terms, hold), reason);
        if (way % 3 == 0) {
            if (reason != Reason.None) _expectSkipped(id, nonce, reason);
            assertEq(_settle(terms, _rows(row)), reason == Reason.None ? 1 : 0);
            return;
        }
        if (reason != Reason.None) vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, reason));
        if (way % 3 == 1) _hold(terms, hold);
        else _spend(terms, row);
    }

    /// @dev With every commitment at hand: those of the last seven pieces, each rounded up.
    function _fitsByTheModel(uint256 amount) private view returns (bool) {
        uint256 unit = _unitOf(terms.windowCap);
        uint256 units = (amount + unit - 1) / unit;
        uint256 piece = _piece();
        for (uint256 i = 0; i < _times.length; ++i) {
            if (_times[i] / piece + 6 >= block.timestamp / piece) units += (_amounts[i] + unit - 1) / unit;
        }
        return units <= terms.windowCap / unit;
    }

    /// @dev Both ends included, which is a second more than the window has.
    function _committedIn(uint256 from, uint256 to) private view returns (uint256 sum) {
        for (uint256 i = 0; i < _times.length; ++i) {
            if (_times[i] >= from && _times[i] <= to) sum += _amounts[i];
        }
    }

    /// @dev Ended mandates, too, keep what they knew: their terms never open again.
    function test_doesNotOutliveTheMandate() public {
        _openWith(1 days, 10, CAP);
        _assertFits(10, 0);
        vm.prank(operator);
        escrow.revoke(terms);
        assertEq(escrow.mandateOf(id).status, Status.Ended);
        _assertRefused(terms, _row(1, 1), Reason.Ended);
    }
}
