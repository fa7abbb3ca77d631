// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../src/interfaces/IMandateEscrow.sol";
import {Group, HoldState, Mandate, Payment, Row, Terms} from "../../src/interfaces/Types.sol";
import {ValidInputs} from "./ValidInputs.sol";

/// @notice Makes only calls that must succeed, in any order and at any time.
contract ValidCallsHandler is ValidInputs {
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
        if (signature.length == 0 && terms.payees == 0) escrow.spend(terms, payment);
        else escrow.spend(terms, payment, _proof(terms, payment.payee), signature);
    }

    /// @dev I10: the batch pays exactly the rows that would pay one by one.
    function settle(uint256 seed) external {
        _begin();
        seed = _mix(seed);
        Group[] memory groups = new Group[](2);
        bytes32[][] memory proofs = new bytes32[][](6);
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
            proofs[i] = _proof(groups[i / 3].terms, payment.payee);
            signatures[i] = _signed(groups[i / 3].terms, payment);
            if (random >> 32 & 7 == 0) (payment.ref, signatures[i]) = (0, "");
            groups[i / 3].payments[i % 3] = payment;
        }
        uint256 paid = 0;
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 6; ++i) {
            vm.prank(submitter_);
            try escrow.spend(groups[i / 3].terms, groups[i / 3].payments[i % 3], proofs[i], signatures[i]) {
                paid |= 1 << i;
            } catch {}
        }
        vm.revertToStateAndDelete(snapshot);
        vm.recordLogs();
        vm.getRecordedLogs();
        uint256 before = _received();
        vm.prank(submitter_);
        uint256 count = escrow.settle(groups, proofs, signatures);
        uint256 sum = 0;
        for (uint256 i = 0; i < 6; ++i) {
            if (paid >> i & 1 == 1) sum += groups[i / 3].payments[i % 3].amount;
        }
        _require(_received() - before == sum, "I10: rows cost each other something");
        _replay();
        if (count != 0) ++successes["settle"];
    }

    /// @dev I10: of many mandates, too, and also if one comes twice.
    function settleTo(uint256 seed) external {
        _begin();
        seed = _mix(seed);
        Row[] memory rows = new Row[](4);
        bytes32[][] memory proofs = new bytes32[][](4);
        bytes[] memory signatures = new bytes[](4);
        address submitter_ = submitters[seed % 3];
        for (uint256 i = 0; i < 4; ++i) {
            uint256 random = uint256(keccak256(abi.encode(seed, "row", i)));
            Terms memory terms = entries[_live(random)].terms;
            Payment memory payment = _payment(terms, random);
            if (random >> 40 & 7 != 0) payment.payee = payees[0];
            (proofs[i], signatures[i]) = (_proof(terms, payment.payee), _signed(terms, payment));
            if (random >> 32 & 7 == 0) (payment.ref, signatures[i]) = (0, "");
            rows[i] = Row(terms, payment);
        }
        uint256 sum = 0;
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 4; ++i) {
            if (rows[i].payment.payee != payees[0]) continue;
            vm.prank(submitter_);
            try escrow.spend(rows[i].terms, rows[i].payment, proofs[i], signatures[i]) {
                sum += rows[i].payment.amount;
            } catch {}
        }
        vm.revertToStateAndDelete(snapshot);
        vm.recordLogs();
        vm.getRecordedLogs();
        uint256 before = _received();
        vm.prank(submitter_);
        uint256 count = escrow.settleTo(payees[0], rows, proofs, signatures);
        _require(_received() - before == sum, "I10: rows cost each other something");
        _replay();
        if (count != 0) ++successes["settleTo"];
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

    /// @dev I5: withdrawn terms never open, by no word of their operator.
    function withdraw(uint256 seed) external counted("withdraw") {
        seed = _mix(seed);
        Terms memory terms = _freshToWithdraw(seed);
        bytes memory authorization = _authorization(terms);
        if (seed % 2 == 0) {
            bytes memory signature = _revokeSignature(terms);
            vm.prank(stranger);
            escrow.revokeWithSignature(terms, signature);
        } else {
            vm.prank(terms.operator);
            escrow.revoke(terms);
        }
        usdc.mint(terms.operator, terms.cap);
        vm.prank(stranger);
        try escrow.openWithAuthorization(terms, 0, type(uint256).max, authorization) {
            _require(false, "I5: withdrawn terms opened");
        } catch (bytes memory why) {
            _require(bytes4(why) == IMandateEscrow.AlreadyEnded.selector, "I5: withdrawn terms are not said to be over");
        }
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
        bool own = (seed >> 8) % 2 == 0;
        vm.prank(own ? terms.operator : stranger);
        escrow.sweepTo(terms, address(0xe15e), type(uint40).max, own ? bytes("") : signature);
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

    function roll(uint256 seed, bool relayed) external counted("roll") {
        seed = _mix(seed);
        Terms memory from = entries[_live(seed)].terms;
        (Terms memory to, uint64 pull) = _successor(from, seed);
        if (pull != 0) usdc.mint(from.operator, pull);
        bytes memory signature = relayed ? _rollSignature(from, to, pull) : bytes("");
        uint256 before = usdc.balanceOf(address(escrow));
        uint256 remaining = entries[_idOf(from)].remaining;
        vm.prank(relayed ? stranger : from.operator);
        escrow.roll(from, to, pull, signature);
        _require(usdc.balanceOf(address(escrow)) + remaining == before + to.cap, "I9: more than the difference moved");
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

    function _received() private view returns (uint256 sum) {
        for (uint256 i = 0; i < payees.length; ++i) {
            sum += usdc.balanceOf(payees[i]);
        }
    }

    function check() external returns (string memory) {
        vm.warp(time);
        _requireAllAsModeled();
        return breach;
    }
}
