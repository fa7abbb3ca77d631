// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Group, Hold, HoldState, Payment, Terms} from "../../src/interfaces/Types.sol";
import {Cast} from "./Cast.sol";

/// @notice Calls whatever, as whoever, with whatever, also at the types' maxima (I11), while the token refuses some. Most of
/// it reverts; whatever does not must fit the model.
contract Unruly is Cast {
    function open(uint256 seed, uint64 cap, uint40 start, uint40 expiry) external counted("open") {
        seed = _mix(seed);
        Terms memory terms = _draw(seed);
        if (seed >> 250 & 3 == 0) (terms.cap, terms.start, terms.expiry) = (cap, start, expiry);
        _fund(terms.operator, terms.cap);
        vm.prank(seed >> 252 & 7 == 0 ? stranger : terms.operator);
        escrow.open(terms);
    }

    /// @dev I5: closed terms never open again, and open ones not twice.
    function openAgain(uint256 which) external counted("openAgain") {
        which = _mix(which);
        Terms memory terms = _any(which);
        _fund(terms.operator, terms.cap);
        vm.prank(terms.operator);
        escrow.open(terms);
    }

    function openWithPermit(uint256 seed, bytes calldata junk) external counted("openWithPermit") {
        seed = _mix(seed);
        Terms memory terms = _draw(seed);
        usdc.mint(terms.operator, terms.cap);
        bytes memory approval = seed % 2 == 0 ? _signature(terms.operator, _idOf(terms)) : junk;
        bytes memory permit = seed >> 11 & 3 == 0 ? junk : _permitSignature(terms, type(uint256).max);
        vm.prank(seed >> 9 & 3 == 0 ? terms.operator : stranger);
        escrow.openWithPermit(terms, type(uint256).max, permit, approval);
    }

    function openWithAuthorization(uint256 seed, uint256 flaw) external counted("openWithAuthorization") {
        seed = _mix(seed);
        flaw = _mix(flaw);
        Terms memory terms = _draw(seed);
        usdc.mint(terms.operator, terms.cap);
        bytes memory signature = _authorization(terms);
        if (flaw % 4 == 0) terms.cap += 1;
        escrow.openWithAuthorization(terms, 0, type(uint256).max, signature);
    }

    function spend(uint256 which, uint256 seed, uint256 junk) external counted("spend") {
        which = _mix(which);
        seed = _mix(seed);
        junk = _mix(junk);
        Terms memory terms = _any(which);
        Payment memory payment = _mess(_payment(terms, seed), junk);
        bytes memory signature = _signed(terms, payment);
        if (junk % 16 == 0) payment.payee = address(0xbad);
        vm.prank(_submitterOf(terms, seed));
        escrow.spend(terms, payment, new bytes32[](junk % 2), signature);
    }

    function settle(uint256 which, uint256 seed, uint256 junk) external counted("settle") {
        which = _mix(which);
        seed = _mix(seed);
        junk = _mix(junk);
        Group[] memory groups = new Group[](2);
        bytes[] memory signatures = new bytes[](junk % 32 == 0 ? 5 : 6);
        for (uint256 i = 0; i < 6; ++i) {
            if (i % 3 == 0) groups[i / 3] = Group(_any(which / (i + 1)), new Payment[](3));
            uint256 random = uint256(keccak256(abi.encode(seed, i)));
            Payment memory payment = _mess(_payment(groups[i / 3].terms, random), random / 3);
            if (i % 2 == 0) payment.payee = payees[seed % 4];
            bytes memory signature = _signed(groups[i / 3].terms, payment);
            if (i < signatures.length) signatures[i] = signature;
            groups[i / 3].payments[i % 3] = payment;
        }
        vm.prank(submitters[seed % 3]);
        escrow.settle(groups, new bytes32[][](0), signatures);
    }

    function hold(uint256 which, uint256 seed, uint256 junk) external counted("hold") {
        which = _mix(which);
        seed = _mix(seed);
        junk = _mix(junk);
        Terms memory terms = _any(which);
        Hold memory hold_;
        hold_.payment = _mess(_payment(terms, seed), junk);
        hold_.captureBy = junk % 8 == 0 ? uint40(junk >> 3) : uint40(time + junk % 3 days);
        bytes memory signature = _signed(terms, hold_);
        vm.prank(_submitterOf(terms, seed));
        escrow.hold(terms, hold_, new bytes32[](0), signature);
    }

    function capture(uint256 which, uint256 seed, uint64 amount, bool close) external counted("capture") {
        which = _mix(which);
        seed = _mix(seed);
        (Terms memory terms, uint32 nonce, HoldState memory held) = _anyHold(which, seed);
        if (amount % 4 != 0 && held.left != 0) amount = 1 + amount % held.left;
        vm.prank(seed % 2 == 0 ? held.payee : submitters[seed % 3]);
        escrow.capture(terms, nonce, seed % 16 == 0 ? amount : held.left, amount, close);
    }

    function release(uint256 which, uint256 seed) external counted("release") {
        which = _mix(which);
        seed = _mix(seed);
        (Terms memory terms, uint32 nonce, HoldState memory held) = _anyHold(which, seed);
        vm.prank(seed % 3 == 0 ? stranger : held.payee);
        escrow.release(terms, nonce);
    }

    function refund(uint256 which, uint64 amount) external counted("refund") {
        which = _mix(which);
        _fund(payees[0], amount);
        vm.prank(payees[0]);
        escrow.refund(_any(which), amount, "");
    }

    function revoke(uint256 which, uint256 who) external counted("revoke") {
        which = _mix(which);
        who = _mix(who);
        Terms memory terms = _any(which);
        vm.prank(who % 3 != 0 ? stranger : who % 2 == 0 ? terms.agent : terms.operator);
        escrow.revoke(terms);
    }

    function revokeWithSignature(uint256 which, bytes calldata junk, bool honest)
        external
        counted("revokeWithSignature")
    {
        which = _mix(which);
        Terms memory terms = _any(which);
        escrow.revokeWithSignature(terms, honest && which % 2 == 0 ? _revokeSignature(terms) : junk);
    }

    function sweep(uint256 which) external counted("sweep") {
        which = _mix(which);
        escrow.sweep(_oneThatIsOver(which));
    }

    function sweepTo(uint256 which, address to, uint40 deadline) external counted("sweepTo") {
        which = _mix(which);
        Terms memory terms = _oneThatIsOver(which);
        if (which % 2 == 0) (to, deadline) = (address(0xe15e), type(uint40).max);
        bytes memory signature = _sweepSignature(terms, to, deadline);
        escrow.sweepTo(terms, to, deadline, signature);
    }

    function passTime(uint256 seed) external {
        time += seed % 8 hours;
    }

    function donate(uint8 amount) external {
        usdc.mint(address(escrow), uint256(amount) + 1);
        donated += uint256(amount) + 1;
    }

    /// @dev What Circle does: payees and operators are refused for a while, or everybody is.
    function refuse(uint256 who) external {
        who = _mix(who);
        address account = who % 3 == 0 ? operators[who % 2] : payees[who % 4];
        if (usdc.isBlacklisted(account)) usdc.unBlacklist(account);
        else if (who % 4 == 0) usdc.blacklist(account);
        if (usdc.paused()) usdc.unpause();
        else if (who % 64 == 0) usdc.pause();
    }

    function _any(uint256 which) private view returns (Terms memory) {
        uint256 newest = ids.length < 6 ? ids.length : 6;
        uint256 back = which % 3 == 0 ? (which >> 8) % ids.length : which % newest;
        return entries[ids[ids.length - 1 - back]].terms;
    }

    /// @dev If there is one, and not always then.
    function _oneThatIsOver(uint256 which) private view returns (Terms memory) {
        for (uint256 i = which % 4; i != 0 && i <= ids.length; ++i) {
            Terms memory terms = entries[ids[i - 1]].terms;
            if (time >= terms.expiry && entries[ids[i - 1]].remaining != 0) return terms;
        }
        return _any(which);
    }

    /// @dev Mostly one that is not over.
    function _anyHold(uint256 which, uint256 seed)
        private
        view
        returns (Terms memory terms, uint32 nonce, HoldState memory held)
    {
        for (uint256 i = which % ids.length; i < 2 * ids.length; ++i) {
            bytes32 id = ids[i % ids.length];
            if (entries[id].holds.length == 0) continue;
            nonce = entries[id].holds[seed % entries[id].holds.length];
            (terms, held) = (entries[id].terms, escrow.holdOf(id, nonce));
            if (time < held.captureBy || which % 8 == 0) break;
        }
    }

    function _mess(Payment memory payment, uint256 junk) private pure returns (Payment memory) {
        if (junk % 8 == 1) payment.amount = uint64(junk >> 8);
        if (junk % 8 == 2) payment.nonce = uint32(junk >> 8);
        if (junk % 8 == 3) payment.deadline = uint40(junk >> 8);
        if (junk % 32 == 4) (payment.amount, payment.nonce) = (type(uint64).max, type(uint32).max);
        return payment;
    }

    function check() external returns (string memory) {
        vm.warp(time);
        _requireAllAsModelled();
        return breach;
    }
}
