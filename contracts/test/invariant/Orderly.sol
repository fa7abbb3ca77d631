// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Group, Hold, HoldState, Mandate, Payment, Reason, Status, Terms} from "../../src/interfaces/Types.sol";
import {Cast} from "./Cast.sol";

/// @notice Makes only calls that must succeed, in any order and at any time. Where nothing suits, it opens a mandate or lets
/// time pass until something does.
contract Orderly is Cast {
    // ---------------------------------------------------------------- open

    function open(uint256 seed) external counted("open") {
        seed = _mix(seed);
        _open(seed);
    }

    function openWithPermit(uint256 seed, bool relayed) external counted("openWithPermit") {
        seed = _mix(seed);
        Terms memory terms = _fresh(seed);
        usdc.mint(terms.operator, terms.cap);
        bytes memory permit = seed % 3 == 0 ? bytes("") : _permitSignature(terms, type(uint256).max);
        bytes memory approval = relayed ? _signature(terms.operator, _idOf(terms)) : bytes("");
        vm.prank(relayed ? stranger : terms.operator);
        escrow.openWithPermit(terms, type(uint256).max, permit, approval);
        vm.prank(terms.operator);
        usdc.approve(address(escrow), type(uint256).max);
    }

    function openWithAuthorization(uint256 seed) external counted("openWithAuthorization") {
        seed = _mix(seed);
        Terms memory terms = _fresh(seed);
        usdc.mint(terms.operator, terms.cap);
        vm.prank(stranger);
        escrow.openWithAuthorization(terms, 0, type(uint256).max, _authorization(terms));
    }

    // ---------------------------------------------------------------- pay

    function spend(uint256 seed) external counted("spend") {
        seed = _mix(seed);
        (Terms memory terms, Payment memory payment, bytes memory signature) = _passing(seed);
        vm.prank(_submitterOf(terms, seed));
        if (signature.length == 0) escrow.spend(terms, payment);
        else escrow.spend(terms, payment, new bytes32[](0), signature);
    }

    /// @dev I10: the batch pays exactly the rows that would pay one by one.
    function settle(uint256 seed) external counted("settle") {
        seed = _mix(seed);
        Group[] memory groups = new Group[](2);
        bytes[] memory signatures = new bytes[](6);
        address submitter_ = submitters[seed % 3];
        for (uint256 i = 0; i < 6; ++i) {
            if (i % 3 == 0) {
                Terms memory terms = entries[_live(uint256(keccak256(abi.encode(seed, i))))].terms;
                groups[i / 3] = Group(terms, new Payment[](3));
            }
            uint256 random = uint256(keccak256(abi.encode(seed, "row", i)));
            Payment memory payment = _payment(groups[i / 3].terms, random);
            if (random % 2 == 0) payment.payee = payees[0];
            signatures[i] = _signed(groups[i / 3].terms, payment);
            if (random >> 32 & 7 == 0) (payment.ref, signatures[i]) = (0, "");
            groups[i / 3].payments[i % 3] = payment;
        }
        uint256 paid = 0;
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 6; ++i) {
            vm.prank(submitter_);
            try escrow.spend(groups[i / 3].terms, groups[i / 3].payments[i % 3], new bytes32[](0), signatures[i]) {
                paid |= 1 << i;
            } catch {}
        }
        vm.revertToStateAndDelete(snapshot);
        vm.recordLogs();
        vm.getRecordedLogs();
        uint256 before = _received();
        vm.prank(submitter_);
        escrow.settle(groups, new bytes32[][](0), signatures);
        uint256 sum = 0;
        for (uint256 i = 0; i < 6; ++i) {
            if (paid >> i & 1 == 1) sum += groups[i / 3].payments[i % 3].amount;
        }
        _require(_received() - before == sum, "I10: rows cost each other something");
    }

    // ---------------------------------------------------------------- hold

    function hold(uint256 seed) external counted("hold") {
        seed = _mix(seed);
        _hold(seed);
    }

    function capture(uint256 seed, bool close) external counted("capture") {
        seed = _mix(seed);
        (bytes32 id, uint32 nonce) = _heldNow(seed);
        HoldState memory held = escrow.holdOf(id, nonce);
        uint64 amount = (seed >> 16) % 3 == 0 ? held.left : uint64(1 + (seed >> 20) % held.left);
        vm.prank(held.payee);
        escrow.capture(entries[id].terms, nonce, held.left, amount, close);
    }

    function release(uint256 seed) external counted("release") {
        seed = _mix(seed);
        (bytes32 id, uint32 nonce) = _heldNow(seed);
        HoldState memory held = escrow.holdOf(id, nonce);
        bool lapsed = seed % 2 == 0 && held.captureBy < entries[id].terms.captureEnd;
        if (lapsed) _passUntil(held.captureBy);
        vm.prank(lapsed ? stranger : held.payee);
        escrow.release(entries[id].terms, nonce);
    }

    // ---------------------------------------------------------------- refund

    function refund(uint256 seed, uint64 amount) external counted("refund") {
        seed = _mix(seed);
        bytes32 id = ids.length == 0 || seed % 2 == 0 ? _live(seed) : ids[seed % ids.length];
        Terms memory terms = entries[id].terms;
        amount = uint64(bound(amount, 1, seed % 3 == 0 ? terms.cap : 500));
        _fund(payees[0], amount);
        (uint256 before, uint256 restored) = (usdc.balanceOf(terms.operator), entries[id].restored);
        vm.prank(payees[0]);
        escrow.refund(terms, amount, bytes32(seed));
        _replay();
        uint256 direct = usdc.balanceOf(terms.operator) - before;
        _require(direct + entries[id].restored - restored == amount, "I9: a refund that went elsewhere");
        vm.recordLogs();
    }

    // ---------------------------------------------------------------- end

    function revoke(uint256 seed) external counted("revoke") {
        seed = _mix(seed);
        Terms memory terms = entries[_live(seed)].terms;
        vm.prank(seed % 2 == 0 ? terms.operator : terms.agent);
        escrow.revoke(terms);
    }

    function revokeWithSignature(uint256 seed) external counted("revokeWithSignature") {
        seed = _mix(seed);
        Terms memory terms = entries[_live(seed)].terms;
        bytes memory signature = _revokeSignature(terms);
        vm.prank(stranger);
        escrow.revokeWithSignature(terms, signature);
    }

    function sweep(uint256 seed) external counted("sweep") {
        seed = _mix(seed);
        Terms memory terms = entries[_over(seed)].terms;
        vm.prank(stranger);
        escrow.sweep(terms);
    }

    function sweepTo(uint256 seed) external counted("sweepTo") {
        seed = _mix(seed);
        Terms memory terms = entries[_over(seed)].terms;
        bytes memory signature = _sweepSignature(terms, address(0xe15e), type(uint40).max);
        vm.prank(stranger);
        escrow.sweepTo(terms, address(0xe15e), type(uint40).max, signature);
    }

    /// @dev I6: whatever came before, a stranger's sweep from captureEnd on leaves nothing.
    function sweepAtTheEnd(uint256 seed) external counted("sweepAtTheEnd") {
        seed = _mix(seed);
        (bytes32 id,) = _heldNow(seed);
        _passUntil(entries[id].terms.captureEnd);
        vm.prank(stranger);
        escrow.sweep(entries[id].terms);
        Mandate memory mandate = escrow.mandateOf(id);
        _require(mandate.remaining + mandate.held == 0, "I6: kept back");
    }

    // ---------------------------------------------------------------- around

    function passTime(uint256 seed) external {
        time += seed % (seed % 4 == 0 ? 1 days : 1 hours);
    }

    function donate(uint8 amount) external {
        usdc.mint(address(escrow), uint256(amount) + 1);
        donated += uint256(amount) + 1;
    }

    function setSubmitter(uint160 account, bool allowed) external counted("setSubmitter") {
        vm.prank(guardians[0]);
        escrow.setSubmitter(address(uint160(bound(account, 1, type(uint80).max)) << 80), allowed);
    }

    // ---------------------------------------------------------------- what suits

    function _fresh(uint256 seed) private view returns (Terms memory terms) {
        terms = _draw(seed);
        terms.intent = keccak256(abi.encode(seed, ids.length));
    }

    function _open(uint256 seed) private returns (bytes32 id) {
        Terms memory terms = _fresh(seed);
        usdc.mint(terms.operator, terms.cap);
        vm.prank(terms.operator);
        id = escrow.open(terms);
        _replay();
        vm.recordLogs();
    }

    /// @dev One of the newest mandates that can be spent and has something left.
    function _live(uint256 seed) private returns (bytes32 id) {
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
    function _over(uint256 seed) private returns (bytes32 id) {
        for (uint256 i = 0; i < ids.length; ++i) {
            id = ids[(seed % ids.length + i) % ids.length];
            if (entries[id].remaining != 0 && (entries[id].ended || time >= entries[id].terms.expiry)) return id;
        }
        id = _live(seed);
        _passUntil(entries[id].terms.expiry);
    }

    /// @dev A hold that can still be captured.
    function _heldNow(uint256 seed) private returns (bytes32 id, uint32 nonce) {
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

    function _hold(uint256 seed) private returns (bytes32 id, uint32 nonce) {
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
            if (escrow.canHold(terms, hold_, new bytes32[](0), signature, _submitterOf(terms, seed)) == Reason.None) {
                break;
            }
        }
        vm.prank(_submitterOf(terms, seed));
        escrow.hold(terms, hold_, new bytes32[](0), signature);
        nonce = hold_.payment.nonce;
        _replay();
        vm.recordLogs();
    }

    /// @dev A payment that the view lets pass: what it says must be so.
    function _passing(uint256 seed)
        private
        returns (Terms memory terms, Payment memory payment, bytes memory signature)
    {
        terms = entries[_live(seed)].terms;
        for (uint256 i = 0;; ++i) {
            require(i < 20, "no payment passes");
            if (i == 9) terms = entries[_openNow(seed)].terms;
            payment = _payment(terms, uint256(keccak256(abi.encode(seed, i))));
            payment.amount = uint64(1 + payment.amount / (1 << i));
            signature = _signed(terms, payment);
            Reason reason = escrow.canSpend(terms, payment, new bytes32[](0), signature, _submitterOf(terms, seed));
            if (reason == Reason.None) return (terms, payment, signature);
        }
    }

    function _openNow(uint256 seed) private returns (bytes32 id) {
        id = _open(seed);
        _passUntil(entries[id].terms.start);
    }

    function _passUntil(uint256 when) private {
        if (time < when) time = when;
        vm.warp(time);
    }

    function _received() private view returns (uint256 sum) {
        for (uint256 i = 0; i < payees.length; ++i) {
            sum += usdc.balanceOf(payees[i]);
        }
    }

    function check() external returns (string memory) {
        vm.warp(time);
        _requireAllAsModelled();
        return breach;
    }
}
