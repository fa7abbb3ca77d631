// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Vm} from "forge-std/Vm.sol";
import {IMandateEscrow} from "../../src/interfaces/IMandateEscrow.sol";
import {HoldState, Mandate, Status, Terms} from "../../src/interfaces/Types.sol";
import {EscrowTest} from "../base/EscrowTest.sol";

/// @notice The escrow by its logs and the time of their blocks alone (I12). Whatever the logs say that must not be is a
/// breach, by the number of the invariant; so is a token that moved without a word, or a word without a token.
abstract contract Model is EscrowTest {
    struct Entry {
        Terms terms;
        uint256 remaining;
        uint256 held;
        uint256 paid;
        uint256 returned;
        uint256 carried;
        uint256 restored;
        bool ended;
        uint32 nonceBase;
        uint32[] holds;
        uint256[] times;
        uint256[] amounts;
    }

    uint256 private constant WINDOWS_SLOT = 4;
    address private constant INTO_THE_ESCROW = address(1);

    bytes32[] internal ids;
    mapping(bytes32 id => Entry) internal entries;
    mapping(bytes32 id => mapping(uint32 nonce => bool)) internal used;
    mapping(bytes32 id => mapping(uint32 nonce => HoldState)) internal holds;
    /// @dev What agents signed to be paid or held, and where operators wanted to have what is left.
    mapping(bytes32 words => bool) internal signed;
    /// @dev Which mandate an operator wanted to be replaced by which.
    mapping(bytes32 from => mapping(bytes32 to => bool)) internal replaced;
    /// @dev The payees of a Merkle root.
    mapping(bytes32 root => mapping(address payee => bool)) internal listed;

    /// @dev Who may send for whom, as the logs have it.
    mapping(address guardian => mapping(address submitter => bool)) private _allowed;
    /// @dev Who made the call whose logs are replayed; zero: that is not looked at.
    address internal caller;

    /// @dev The mandate that the replayed call has rolled.
    bytes32 private _rolledNow;

    uint256 internal donated;
    string public breach;
    mapping(address account => int256) private _unexplained;

    // ---------------------------------------------------------------- replay

    /// @dev Takes in what the last call logged. The escrow then is as the model says.
    function _replay() internal {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        _rolledNow = 0;
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(usdc)) _replayTransfer(logs[i]);
            if (logs[i].emitter == address(escrow)) _replayLog(logs[i]);
        }
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(usdc) && logs[i].topics[0] == IERC20.Transfer.selector) {
                _require(_unexplained[_address(logs[i].topics[2])] == 0, "I9: moved without a word");
            } else if (logs[i].emitter == address(escrow)) {
                if (logs[i].topics[0] != IMandateEscrow.SubmitterSet.selector) _requireAsModeled(logs[i].topics[1]);
                else _requireSetAsModeled(_address(logs[i].topics[1]), _address(logs[i].topics[2]));
            }
        }
        _require(_unexplained[INTO_THE_ESCROW] == 0, "I9: a word for nothing");
    }

    function _replayTransfer(Vm.Log memory log) private {
        if (log.topics[0] != IERC20.Transfer.selector) return;
        int256 amount = int256(abi.decode(log.data, (uint256)));
        if (_address(log.topics[1]) == address(escrow)) {
            _unexplained[_address(log.topics[2])] += amount;
            _unexplained[INTO_THE_ESCROW] -= amount;
        } else if (_address(log.topics[2]) == address(escrow)) {
            _unexplained[INTO_THE_ESCROW] += amount;
        }
    }

    function _replayLog(Vm.Log memory log) private {
        (bytes32 kind, bytes32 id) = (log.topics[0], log.topics[1]);
        if (kind == IMandateEscrow.Opened.selector) {
            _opened(id, abi.decode(log.data, (Terms)));
        } else if (kind == IMandateEscrow.Spent.selector) {
            _spent(id, _address(log.topics[2]), log.data);
        } else if (kind == IMandateEscrow.Held.selector) {
            _held(id, _address(log.topics[2]), log.data);
        } else if (kind == IMandateEscrow.Captured.selector) {
            _captured(id, _address(log.topics[2]), log.data);
        } else if (kind == IMandateEscrow.Released.selector) {
            _released(id, log.data);
        } else if (kind == IMandateEscrow.Refunded.selector) {
            _refunded(id, log.data);
        } else if (kind == IMandateEscrow.Revoked.selector) {
            _revoked(id);
        } else if (kind == IMandateEscrow.Rolled.selector) {
            _rolled(id, log.topics[2], log.data);
        } else if (kind == IMandateEscrow.Returned.selector) {
            _returned(id, _address(log.topics[2]), log.data);
        } else if (kind == IMandateEscrow.SubmitterSet.selector) {
            _allowed[_address(id)][_address(log.topics[2])] = abi.decode(log.data, (bool));
        }
    }

    function _opened(bytes32 id, Terms memory terms) private {
        _require(entries[id].terms.cap == 0 && !entries[id].ended, "I5: opened again");
        _require(id == _idOf(terms), "I12: an id of other terms");
        ids.push(id);
        entries[id].terms = terms;
        entries[id].remaining = terms.cap;
        _explain(INTO_THE_ESCROW, terms.cap);
    }

    function _spent(bytes32 id, address to, bytes memory data) private {
        (uint64 amount, uint32 nonce, bytes32 ref) = abi.decode(data, (uint64, uint32, bytes32));
        _require(signed[_words(id, to, amount, nonce, 0, ref)], "I7: not signed");
        _commit(id, to, amount, nonce);
        entries[id].paid += amount;
        _paysOut(to, amount);
    }

    function _held(bytes32 id, address to, bytes memory data) private {
        (uint64 amount, uint32 nonce, uint40 captureBy, bytes32 ref) =
            abi.decode(data, (uint64, uint32, uint40, bytes32));
        _require(signed[_words(id, to, amount, nonce, captureBy, ref)], "I7: not signed");
        _commit(id, to, amount, nonce);
        entries[id].held += amount;
        entries[id].holds.push(nonce);
        holds[id][nonce] = HoldState(to, amount, uint32(captureBy));
    }

    /// @dev What payments and holds share.
    function _commit(bytes32 id, address to, uint64 amount, uint32 nonce) private {
        Entry storage entry = entries[id];
        Terms memory terms = entry.terms;
        _require(!entry.ended && block.timestamp >= terms.start && block.timestamp < terms.expiry, "I5: out of time");
        _require(amount <= entry.remaining && (terms.perPayment == 0 || amount <= terms.perPayment), "I2: too much");
        _require(nonce >= entry.nonceBase && !used[id][nonce], "I3: used before");
        _require(terms.payees == 0 || listed[terms.payees][to], "I7: not on the list");
        _require(terms.guardian == address(0) || _sentFor(terms.guardian), "I12: sent by no submitter");

        entry.remaining = _less(entry.remaining, amount);
        used[id][nonce] = true;
        if (nonce > entry.nonceBase + 87) entry.nonceBase = nonce - 87;
        if (terms.window == 0) return;
        entry.times.push(block.timestamp);
        entry.amounts.push(amount);
        uint256 within = 0;
        for (uint256 i = entry.times.length; i > 0 && block.timestamp - entry.times[i - 1] < terms.window; --i) {
            within += entry.amounts[i - 1];
        }
        _require(within <= terms.windowCap, "I8: too much within a window");
    }

    function _captured(bytes32 id, address to, bytes memory data) private {
        (uint64 amount, uint32 nonce) = abi.decode(data, (uint64, uint32));
        HoldState storage hold = holds[id][nonce];
        _require(amount <= hold.left && amount <= entries[id].held, "I4: more than is held");
        _require(block.timestamp < hold.captureBy, "I4: captured too late");
        _require(to == hold.payee, "I7: another payee");
        _require(_endedBy(id, hold.payee), "I12: captured by no submitter");
        hold.left = uint64(_less(hold.left, amount));
        if (hold.left == 0) delete holds[id][nonce];
        entries[id].held = _less(entries[id].held, amount);
        entries[id].paid += amount;
        _paysOut(to, amount);
    }

    function _released(bytes32 id, bytes memory data) private {
        (uint64 amount, uint32 nonce) = abi.decode(data, (uint64, uint32));
        HoldState memory hold = holds[id][nonce];
        _require(amount != 0 && amount == hold.left, "I4: not what is held");
        _require(block.timestamp >= hold.captureBy || _endedBy(id, hold.payee), "I12: released by no submitter");
        delete holds[id][nonce];
        entries[id].held = _less(entries[id].held, amount);
        entries[id].remaining += amount;
    }

    function _endedBy(bytes32 id, address payee) private view returns (bool) {
        address guardian = entries[id].terms.guardian;
        return caller == payee || (guardian == address(0) ? caller == address(0) : _sentFor(guardian));
    }

    function _sentFor(address guardian) private view returns (bool) {
        return caller == address(0) || _allowed[guardian][caller];
    }

    function _refunded(bytes32 id, bytes memory data) private {
        (uint64 amount, uint64 restored,) = abi.decode(data, (uint64, uint64, bytes32));
        Entry storage entry = entries[id];
        _require(restored <= amount, "I2: restored out of nothing");
        entry.remaining += restored;
        entry.restored += restored;
        bool open = !entry.ended && block.timestamp < entry.terms.expiry;
        _require(restored == 0 || (open && entry.terms.refundsRestoreBudget), "I5: restored what is over");
        _explain(INTO_THE_ESCROW, restored);
    }

    function _revoked(bytes32 id) private {
        _require(!entries[id].ended, "I5: ended twice");
        entries[id].ended = true;
    }

    function _rolled(bytes32 id, bytes32 to, bytes memory data) private {
        uint64 carried = abi.decode(data, (uint64));
        (Entry storage entry, Entry storage next) = (entries[id], entries[to]);
        _require(!entry.ended && entry.terms.cap != 0, "I5: rolled without being open");
        _require(next.remaining == next.terms.cap && next.paid == 0, "I12: rolled into an old mandate");
        _require(entry.terms.operator == next.terms.operator && replaced[id][to], "I7: not the operator's will");
        uint256 most = next.terms.cap < entry.remaining ? next.terms.cap : entry.remaining;
        _require(carried == most, "I6: kept back");
        entry.ended = true;
        entry.remaining = _less(entry.remaining, carried);
        entry.carried += carried;
        _unexplained[INTO_THE_ESCROW] += int256(uint256(carried));
        _rolledNow = id;
    }

    function _returned(bytes32 id, address to, bytes memory data) private {
        (uint64 fromRemaining, uint64 fromHeld) = abi.decode(data, (uint64, uint64));
        Entry storage entry = entries[id];
        // A roll leaves what is held, whenever it comes.
        bool late = block.timestamp >= entry.terms.captureEnd && id != _rolledNow;
        _require(to == entry.terms.operator || signed[_words(id, to, 0, 0, 0, "")], "I7: another recipient");
        _require(fromRemaining == entry.remaining && fromHeld == (late ? entry.held : 0), "I6: kept back");
        entry.ended = true;
        entry.remaining = 0;
        entry.held = _less(entry.held, fromHeld);
        entry.returned += uint256(fromRemaining) + fromHeld;
        _paysOut(to, uint256(fromRemaining) + fromHeld);
    }

    function _paysOut(address to, uint256 amount) private {
        _explain(to, amount);
        _unexplained[INTO_THE_ESCROW] += int256(amount);
    }

    function _explain(address account, uint256 amount) private {
        _unexplained[account] -= int256(amount);
    }

    // ---------------------------------------------------------------- comparison

    function _requireAsModeled(bytes32 id) internal {
        Entry storage entry = entries[id];
        if (entry.terms.cap == 0) {
            // Withdrawn by its operator; or a row of a mandate that nobody opened was skipped.
            Mandate memory unopened = Mandate(0, 0, 0, 0, entry.ended ? Status.Ended : Status.None);
            _require(_same(abi.encode(unopened), abi.encode(escrow.mandateOf(id))), "I12: another unopened mandate");
            return;
        }
        _require(
            entry.paid + entry.remaining + entry.held + entry.returned + entry.carried
                    == entry.terms.cap + entry.restored && entry.remaining + entry.held <= entry.terms.cap,
            "I2: does not add up"
        );
        uint88 bits = 0;
        for (uint32 i = 0; i < 88; ++i) {
            if (used[id][entry.nonceBase + i]) bits |= uint88(1) << i;
        }
        Mandate memory model = Mandate(
            uint64(entry.remaining), uint64(entry.held), bits, entry.nonceBase, entry.ended ? Status.Ended : Status.Open
        );
        _require(_same(abi.encode(model), abi.encode(escrow.mandateOf(id))), "I12: another mandate");
        for (uint256 i = 0; i < entry.holds.length; ++i) {
            uint32 nonce = entry.holds[i];
            _require(_same(abi.encode(holds[id][nonce]), abi.encode(escrow.holdOf(id, nonce))), "I12: another hold");
        }
        if (entry.terms.window != 0) {
            bytes32 slot = keccak256(abi.encode(id, WINDOWS_SLOT));
            _require(uint256(vm.load(address(escrow), slot)) == _window(entry), "I12: another window");
        }
    }

    function _requireSetAsModeled(address guardian, address submitter) private {
        _require(escrow.isSubmitter(guardian, submitter) == _allowed[guardian][submitter], "I12: another submitter");
    }

    /// @dev Seven buckets of a sixth of the window each, as their commitments say.
    function _window(Entry storage entry) private view returns (uint256 word) {
        uint256 count = entry.times.length;
        if (count == 0) return 0;
        uint256 length = (uint256(entry.terms.window) + 5) / 6;
        uint256 newest = entry.times[count - 1] / length;
        uint256 unit = 1;
        while (entry.terms.windowCap / unit >= type(uint32).max) unit *= 2;
        word = newest << 224;
        for (uint256 i = 0; i < count; ++i) {
            uint256 age = newest - entry.times[i] / length;
            if (age < 7) word += (entry.amounts[i] + unit - 1) / unit << (32 * age);
        }
    }

    /// @dev I1 exactly: the escrow holds what mandates have, and donations. I4: what a mandate holds is what its holds
    /// have left, until a sweep takes it.
    function _requireAllAsModeled() internal {
        uint256 has = donated;
        for (uint256 i = 0; i < ids.length; ++i) {
            Entry storage entry = entries[ids[i]];
            _requireAsModeled(ids[i]);
            has += entry.remaining + entry.held;
            uint256 left = 0;
            for (uint256 j = 0; j < entry.holds.length; ++j) {
                left += holds[ids[i]][entry.holds[j]].left;
            }
            bool swept = entry.ended && entry.held == 0 && block.timestamp >= entry.terms.captureEnd;
            _require(swept || left == entry.held, "I4: held by no hold");
        }
        _require(usdc.balanceOf(address(escrow)) == has, "I1: not covered");
    }

    // ---------------------------------------------------------------- words

    function _words(bytes32 id, address to, uint64 amount, uint32 nonce, uint40 captureBy, bytes32 ref)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(id, to, amount, nonce, captureBy, ref));
    }

    function _require(bool right, string memory what) internal {
        if (!right && bytes(breach).length == 0) breach = what;
    }

    /// @dev A breach that reverted would be forgotten.
    function _less(uint256 from, uint256 amount) private pure returns (uint256) {
        return amount < from ? from - amount : 0;
    }

    function _same(bytes memory left, bytes memory right) private pure returns (bool) {
        return keccak256(left) == keccak256(right);
    }

    function _address(bytes32 word) private pure returns (address) {
        return address(uint160(uint256(word)));
    }
}
