// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Vm} from "forge-std/Vm.sol";
import {IMandateEscrow} from "../../src/interfaces/IMandateEscrow.sol";
import {Group, Hold, HoldState, Mandate, Payment, Reason, Status, Terms} from "../../src/interfaces/Types.sol";
import {EscrowTest} from "../base/EscrowTest.sol";

/// @notice Does what operators, agents and submitters do, in any order and at any time, and keeps its own books from the
/// token's balances and the escrow's events.
contract Handler is EscrowTest {
    struct Books {
        Terms terms;
        uint256 paid;
        uint256 returned;
        bool ended;
        uint32[] holds;
    }

    /// @dev What the events say of one hold.
    struct HoldBooks {
        uint256 held;
        uint256 captured;
        uint256 released;
        uint40 captureBy;
    }

    bytes32[] public ids;
    mapping(bytes32 id => Books) private _books;
    mapping(bytes32 id => mapping(uint32 nonce => uint256)) public timesUsed;
    mapping(bytes32 id => mapping(uint32 nonce => HoldBooks)) private _holdBooks;
    mapping(bytes32 action => uint256) public succeeded;

    uint256 public mostTimesUsed;
    uint256 public usedOutOfTime;
    uint256 public capturedOutOfTime;
    uint256 public keptBack;
    uint256 public reopened;
    uint256 public donated;

    uint256 private _time = NOW;
    uint256 private _operatorsOwn;

    function booksOf(bytes32 id) external view returns (Books memory) {
        return _books[id];
    }

    function holdBooksOf(bytes32 id, uint32 nonce) external view returns (HoldBooks memory) {
        return _holdBooks[id][nonce];
    }

    function idCount() external view returns (uint256) {
        return ids.length;
    }

    function time() external view returns (uint256) {
        return _time;
    }

    function theEscrow() external view returns (IMandateEscrow) {
        return escrow;
    }

    function balance() external view returns (uint256) {
        return usdc.balanceOf(address(escrow));
    }

    // ---------------------------------------------------------------- actions

    function open(uint64 cap, uint8 days_, bool capped) external {
        vm.warp(_time);
        usdc.unBlacklist(operator);
        Terms memory terms = _terms();
        terms.cap = uint64(bound(cap, 100, 10_000));
        terms.perPayment = capped ? terms.cap / 2 : 0;
        terms.start = uint40(_time + (days_ % 4 == 0 ? 1 hours : 0));
        terms.expiry = terms.start + uint40(1 + days_ % 3) * 1 days;
        terms.captureEnd = terms.expiry + 1 days;
        terms.intent = bytes32(ids.length);
        bytes32 id = _open(terms);
        ids.push(id);
        _books[id].terms = terms;
        ++succeeded["open"];
    }

    function openAgain(uint256 which) external {
        if (ids.length == 0) return;
        usdc.unBlacklist(operator);
        Terms memory terms = _books[_pick(which)].terms;
        _fund(operator, terms.cap);
        _operatorsOwn += terms.cap;
        vm.prank(operator);
        try escrow.open(terms) {
            ++reopened;
        } catch {}
    }

    function spend(uint256 which, uint64 amount, uint32 nonce) external {
        if (ids.length == 0) return;
        bytes32 id = _pick(which);
        Terms memory terms = _books[id].terms;
        Payment memory payment = _draw(terms, amount, nonce);
        vm.recordLogs();
        vm.prank(submitter);
        try escrow.spend(terms, payment) {
            ++succeeded["spend"];
            _record();
        } catch {}
    }

    function settle(uint256 which, uint256 seed) external {
        if (ids.length == 0) return;
        Group[] memory groups = new Group[](2);
        for (uint256 i = 0; i < 2; ++i) {
            Terms memory terms = _books[_pick(which / (1 + i * 7))].terms;
            Payment[] memory rows = new Payment[](3);
            for (uint256 j = 0; j < 3; ++j) {
                uint256 random = uint256(keccak256(abi.encode(seed, i, j)));
                rows[j] = _draw(terms, uint64(random), uint32(random >> 64));
                if (random >> 128 & 7 == 0) rows[j].ref = 0;
            }
            groups[i] = Group(terms, rows);
        }
        vm.recordLogs();
        if (_settle(groups) != 0) ++succeeded["settle"];
        _record();
    }

    /// @dev Lasts from some hours to the mandate's captureEnd.
    function hold(uint256 which, uint64 amount, uint32 nonce) external {
        if (ids.length == 0) return;
        bytes32 id = _pick(which);
        Terms memory terms = _books[id].terms;
        Hold memory hold_ = _holdFor(terms, _payeeOf(nonce >> 16), amount % (terms.cap / 3), nonce % 120);
        hold_.payment.deadline = NOW + 3650 days;
        hold_.captureBy = nonce >> 24 & 1 == 0 ? terms.captureEnd : uint40(_time + 1 + amount % 2 days);
        _sign(terms, hold_);
        vm.recordLogs();
        vm.prank(submitter);
        try escrow.hold(terms, hold_) {
            ++succeeded["hold"];
            _record();
        } catch {}
    }

    /// @dev Mostly of what is held, sometimes of what is not.
    function capture(uint256 which, uint256 seed, uint64 amount, bool close) external {
        (bytes32 id, uint32 nonce) = _pickHold(which, seed);
        if (id == 0) return;
        HoldState memory held = escrow.holdOf(id, nonce);
        uint64 expected = seed >> 64 & 15 == 0 ? held.left + 1 : held.left;
        vm.recordLogs();
        vm.prank(seed >> 68 & 1 == 0 ? held.payee : submitter);
        try escrow.capture(
            _books[id].terms, nonce, expected, seed >> 72 & 7 == 0 ? held.left : amount % (held.left + 2), close
        ) {
            ++succeeded["capture"];
            _record();
        } catch {}
    }

    function release(uint256 which, uint256 seed, bool byAnyone) external {
        (bytes32 id, uint32 nonce) = _pickHold(which, seed);
        if (id == 0) return;
        vm.recordLogs();
        vm.prank(byAnyone ? stranger : submitter);
        try escrow.release(_books[id].terms, nonce) {
            ++succeeded["release"];
            _record();
        } catch {}
    }

    /// @dev I6: whatever came before, the sweep at the end leaves nothing behind, if the token pays.
    function sweepAtTheEnd(uint256 which) external {
        if (ids.length == 0) return;
        bytes32 id = _pick(which);
        Books storage books = _books[id];
        if (_time < books.terms.captureEnd) return;
        Mandate memory mandate = escrow.mandateOf(id);
        if (mandate.remaining + mandate.held == 0) return;
        usdc.unBlacklist(operator);
        vm.recordLogs();
        vm.prank(stranger);
        try escrow.sweep(books.terms) {
            ++succeeded["sweepAtTheEnd"];
            _record();
            books.ended = true;
        } catch {}
        mandate = escrow.mandateOf(id);
        keptBack += mandate.remaining + mandate.held;
    }

    function revoke(uint256 which, bool byAgent) external {
        if (ids.length == 0 || which % 2 == 0) return;
        bytes32 id = _pick(which / 2);
        vm.recordLogs();
        vm.prank(byAgent ? agent : operator);
        try escrow.revoke(_books[id].terms) {
            ++succeeded["revoke"];
            _record();
            _books[id].ended = true;
        } catch {}
    }

    function sweep(uint256 which) external {
        if (ids.length == 0) return;
        bytes32 id = _pick(which);
        vm.recordLogs();
        try escrow.sweep(_books[id].terms) {
            ++succeeded["sweep"];
            _record();
            _books[id].ended = true;
        } catch {}
    }

    function passTime(uint32 seconds_) external {
        _time += seconds_ % 12 hours;
        vm.warp(_time);
    }

    function donate(uint8 amount) external {
        usdc.mint(address(escrow), uint256(amount) + 1);
        donated += uint256(amount) + 1;
    }

    /// @dev What Circle does: one of the payees, or the operator, is refused for a while.
    function toggleBlacklist(uint256 who) external {
        address account = who % 4 == 0 ? operator : _payeeOf(who);
        if (usdc.isBlacklisted(account)) usdc.unBlacklist(account);
        else if (who % 2 == 0) usdc.blacklist(account);
    }

    // ---------------------------------------------------------------- within

    function _pick(uint256 which) private view returns (bytes32) {
        return ids[which % ids.length];
    }

    function _pickHold(uint256 which, uint256 seed) private view returns (bytes32 id, uint32 nonce) {
        if (ids.length == 0) return (0, 0);
        id = _pick(which);
        uint32[] storage holds = _books[id].holds;
        if (holds.length == 0) return (0, 0);
        nonce = holds[seed % holds.length];
    }

    function _payeeOf(uint256 seed) private pure returns (address) {
        return address(uint160(0xca11ed + seed % 3));
    }

    function _draw(Terms memory terms, uint64 amount, uint32 nonce) private view returns (Payment memory payment) {
        payment = _paymentTo(terms, _payeeOf(nonce >> 16), amount % (terms.cap / 3), nonce % 120);
        payment.deadline = NOW + 3650 days;
        _sign(terms, payment);
    }

    /// @dev Books what the events of the last call say. Only after a success: logs of a revert are recorded too.
    function _record() private {
        vm.warp(_time);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter != address(escrow)) continue;
            Books storage books = _books[logs[i].topics[1]];
            if (logs[i].topics[0] == IMandateEscrow.Spent.selector) {
                (uint64 amount, uint32 nonce,) = abi.decode(logs[i].data, (uint64, uint32, bytes32));
                books.paid += amount;
                _use(logs[i].topics[1], nonce);
            } else if (logs[i].topics[0] == IMandateEscrow.Held.selector) {
                (uint64 amount, uint32 nonce, uint40 captureBy,) =
                    abi.decode(logs[i].data, (uint64, uint32, uint40, bytes32));
                books.holds.push(nonce);
                _holdBooks[logs[i].topics[1]][nonce] = HoldBooks(amount, 0, 0, captureBy);
                _use(logs[i].topics[1], nonce);
            } else if (logs[i].topics[0] == IMandateEscrow.Captured.selector) {
                (uint64 amount, uint32 nonce) = abi.decode(logs[i].data, (uint64, uint32));
                HoldBooks storage hold_ = _holdBooks[logs[i].topics[1]][nonce];
                books.paid += amount;
                hold_.captured += amount;
                if (_time >= hold_.captureBy || hold_.released != 0) ++capturedOutOfTime;
            } else if (logs[i].topics[0] == IMandateEscrow.Released.selector) {
                (uint64 amount, uint32 nonce) = abi.decode(logs[i].data, (uint64, uint32));
                _holdBooks[logs[i].topics[1]][nonce].released += amount;
            } else if (logs[i].topics[0] == IMandateEscrow.Returned.selector) {
                (uint64 fromRemaining, uint64 fromHeld) = abi.decode(logs[i].data, (uint64, uint64));
                books.returned += fromRemaining + fromHeld;
            }
        }
    }

    function _use(bytes32 id, uint32 nonce) private {
        Books storage books = _books[id];
        uint256 times = ++timesUsed[id][nonce];
        if (times > mostTimesUsed) mostTimesUsed = times;
        if (books.ended || _time < books.terms.start || _time >= books.terms.expiry) ++usedOutOfTime;
    }

    /// @dev Everything that payees ever got, by the token's own books.
    function received() external view returns (uint256 payees) {
        for (uint256 i = 0; i < 3; ++i) {
            payees += usdc.balanceOf(_payeeOf(i));
        }
    }

    /// @dev Everything that the operator ever got back, by the token's own books.
    function operatorReceived() external view returns (uint256) {
        return usdc.balanceOf(operator) - _operatorsOwn;
    }
}
