// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Hold, Payment, Reason, Terms} from "../../src/interfaces/Types.sol";
import {Actors} from "./Actors.sol";

/// @notice What suits a call that must succeed. Where nothing does, it opens a mandate or lets time pass until something
/// does.
abstract contract ValidInputs is Actors {
    Terms[] internal withdrawn;

    function _fresh(uint256 seed) internal view returns (Terms memory terms) {
        terms = _draw(seed);
        terms.intent = keccak256(abi.encode(seed, ids.length));
    }

    /// @dev Terms of which the operator thinks better. They differ from all that is opened.
    function _freshToWithdraw(uint256 seed) internal returns (Terms memory terms) {
        terms = _draw(seed);
        terms.intent = keccak256(abi.encode("withdrawn", withdrawn.length));
        withdrawn.push(terms);
    }

    function _open(uint256 seed) internal returns (bytes32 id) {
        Terms memory terms = _fresh(seed);
        usdc.mint(terms.operator, terms.cap);
        vm.prank(terms.operator);
        id = escrow.open(terms);
        _replay();
        vm.recordLogs();
    }

    /// @dev One of the newest mandates that can be spent and has something left.
    function _live(uint256 seed) internal returns (bytes32 id) {
        for (uint256 i = 0; i < 4 && i < ids.length; ++i) {
            uint256 newest = ids.length < 4 ? ids.length : 4;
            id = ids[ids.length - 1 - (seed % newest + i) % newest];
            Terms memory terms = entries[id].terms;
            bool open_ = !entries[id].ended && time >= terms.start && time < terms.expiry;
            if (open_ && entries[id].remaining > terms.cap / 4) return id;
        }
        return _openNow(seed);
    }

    /// @dev One that is over, with something left that goes back.
    function _over(uint256 seed) internal returns (bytes32 id) {
        for (uint256 i = 0; i < ids.length; ++i) {
            id = ids[(seed % ids.length + i) % ids.length];
            if (entries[id].remaining != 0 && (entries[id].ended || time >= entries[id].terms.expiry)) return id;
        }
        id = _live(seed);
        _passUntil(entries[id].terms.expiry);
    }

    /// @dev A hold that can still be captured.
    function _heldNow(uint256 seed) internal returns (bytes32 id, uint32 nonce) {
        for (uint256 i = 0; i < 8 && i < ids.length; ++i) {
            id = ids[ids.length - 1 - i];
            uint32[] storage nonces = entries[id].holds;
            for (uint256 j = 0; j < nonces.length; ++j) {
                nonce = nonces[(seed % nonces.length + j) % nonces.length];
                if (holds[id][nonce].left != 0 && time < holds[id][nonce].captureBy) return (id, nonce);
            }
        }
        return _hold(seed);
    }

    function _hold(uint256 seed) internal returns (bytes32 id, uint32 nonce) {
        id = _live(seed);
        Terms memory terms = entries[id].terms;
        Hold memory hold_;
        bytes memory signature;
        for (uint256 i = 0;; ++i) {
            require(i < 20, "no hold passes");
            if (i == 9) {
                id = _openNow(seed >> 1);
                terms = entries[id].terms;
            }
            hold_.payment = _payment(terms, uint256(keccak256(abi.encode(seed, i))));
            hold_.payment.amount = uint64(1 + hold_.payment.amount / (1 << i));
            hold_.captureBy = seed % 2 == 0 ? terms.captureEnd : uint40(time + 1 + seed % (terms.captureEnd - time));
            signature = _signed(terms, hold_);
            if (_passes(terms, hold_, signature, _submitterOf(terms, seed))) break;
        }
        vm.prank(_submitterOf(terms, seed));
        escrow.hold(terms, hold_, _proof(terms, hold_.payment.payee), signature);
        nonce = hold_.payment.nonce;
        _replay();
        vm.recordLogs();
    }

    /// @dev Terms of the same operator to come after a mandate, and what they need more than it has left.
    function _successor(Terms memory from, uint256 seed) internal returns (Terms memory to, uint64 pull) {
        bytes32 id = _idOf(from);
        to = _fresh(seed >> 1);
        to.operator = from.operator;
        pull = uint64(to.cap > entries[id].remaining ? to.cap - entries[id].remaining : 0);
        replaced[id][_idOf(to)] = true;
    }

    /// @dev A payment that the view lets pass: what it says must be so.
    function _passing(uint256 seed)
        internal
        returns (Terms memory terms, Payment memory payment, bytes memory signature)
    {
        terms = entries[_live(seed)].terms;
        for (uint256 i = 0;; ++i) {
            require(i < 20, "no payment passes");
            if (i == 9) terms = entries[_openNow(seed)].terms;
            payment = _payment(terms, uint256(keccak256(abi.encode(seed, i))));
            payment.amount = uint64(1 + payment.amount / (1 << i));
            signature = _signed(terms, payment);
            if (_passes(terms, payment, signature, _submitterOf(terms, seed))) return (terms, payment, signature);
        }
    }

    function _passes(Terms memory terms, Payment memory payment, bytes memory signature, address sender)
        private
        view
        returns (bool)
    {
        return escrow.canSpend(terms, payment, _proof(terms, payment.payee), signature, sender) == Reason.None;
    }

    function _passes(Terms memory terms, Hold memory hold_, bytes memory signature, address sender)
        private
        view
        returns (bool)
    {
        return escrow.canHold(terms, hold_, _proof(terms, hold_.payment.payee), signature, sender) == Reason.None;
    }

    function _openNow(uint256 seed) internal returns (bytes32 id) {
        id = _open(seed);
        _passUntil(entries[id].terms.start);
    }

    function _passUntil(uint256 when) internal {
        if (time < when) time = when;
        vm.warp(time);
    }
}
