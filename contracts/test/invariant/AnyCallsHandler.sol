// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Group, Hold, HoldState, Payment, Row, Terms} from "../../src/interfaces/Types.sol";
import {ValidInputs} from "./ValidInputs.sol";

/// @notice Calls whatever, as whoever, with whatever, also at the types' maxima, while the token refuses some and guardians
/// change their minds. Most of it is refused, by a typed error (I11); whatever is not must fit the model. An action that
/// had no luck three times is helped, so that each succeeds in every run.
contract AnyCallsHandler is ValidInputs {
    mapping(bytes32 action => uint256) private _attempts;
    bool private _helped;

    function setUp() public override {
        super.setUp();
        _open(1);
    }

    modifier attempt(bytes32 action) {
        _begin();
        caller = address(0);
        _helped = successes[action] == 0 && ++_attempts[action] > 3;
        if (_helped) _calm();
        _;
    }

    /// @dev Takes away what stands in everybody's way.
    function _calm() private {
        if (usdc.paused()) usdc.unpause();
        for (uint256 i = 0; i < payees.length; ++i) {
            usdc.unBlacklist(payees[i]);
        }
        for (uint256 i = 0; i < operators.length; ++i) {
            usdc.unBlacklist(operators[i]);
            vm.prank(operators[i]);
            usdc.approve(address(escrow), type(uint256).max);
            for (uint256 j = 0; j < guardians.length; ++j) {
                vm.prank(guardians[j]);
                escrow.setSubmitter(submitters[i], true);
            }
        }
        _replay();
        vm.recordLogs();
    }

    function _as(address sender) private {
        caller = sender;
        vm.prank(sender);
    }

    function _passed(bytes32 action) private {
        _replay();
        ++successes[action];
    }

    /// @dev I11. The escrow gives no reasons in words; the token does, and they come through where it pulls.
    function _refused(bytes memory why, bool pulls) private {
        bytes4 kind = bytes4(why);
        bool typed = why.length >= 4 && kind != bytes4(keccak256("Panic(uint256)"));
        _require(typed && (pulls || kind != bytes4(keccak256("Error(string)"))), "I11: no typed error");
    }

    /// @dev As far as the token lets.
    function _lend(address account, uint256 amount) private {
        try usdc.mint(account, amount) {} catch {}
        vm.prank(account);
        try usdc.approve(address(escrow), amount) {} catch {}
    }

    // ---------------------------------------------------------------- open

    function open(uint256 seed, uint64 cap, uint40 start, uint40 expiry) external attempt("open") {
        seed = _mix(seed);
        Terms memory terms = _fresh(seed);
        if (!_helped && seed >> 250 & 3 == 0) (terms.cap, terms.start, terms.expiry) = (cap, start, expiry);
        _lend(terms.operator, terms.cap);
        _as(!_helped && seed >> 252 & 7 == 0 ? stranger : terms.operator);
        try escrow.open(terms) {
            _passed("open");
        } catch (bytes memory why) {
            _refused(why, true);
        }
    }

    /// @dev I5: closed terms never open again, and open ones not twice.
    function openAgain(uint256 which) external {
        _begin();
        which = _mix(which);
        bool unopened = withdrawn.length != 0 && which % 2 == 0;
        Terms memory terms = unopened ? withdrawn[(which >> 8) % withdrawn.length] : _any(which);
        _lend(terms.operator, terms.cap);
        _as(terms.operator);
        try escrow.open(terms) {
            _passed("openAgain");
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    function openWithPermit(uint256 seed, bytes calldata junk) external attempt("openWithPermit") {
        seed = _mix(seed);
        Terms memory terms = _fresh(seed);
        _lend(terms.operator, terms.cap);
        bytes memory approval = _helped || seed % 2 == 0 ? _signature(terms.operator, _idOf(terms)) : junk;
        bytes memory permit = seed >> 11 & 3 == 0 ? junk : _permitSignature(terms, type(uint256).max);
        _as(seed >> 9 & 3 == 0 ? terms.operator : stranger);
        try escrow.openWithPermit(terms, type(uint256).max, permit, approval) {
            _passed("openWithPermit");
        } catch (bytes memory why) {
            _refused(why, true);
        }
    }

    function openWithAuthorization(uint256 seed, uint256 flaw) external attempt("openWithAuthorization") {
        seed = _mix(seed);
        Terms memory terms = _fresh(seed);
        _lend(terms.operator, terms.cap);
        bytes memory signature = _authorization(terms);
        if (!_helped && _mix(flaw) % 4 == 0) terms.cap ^= 1;
        _as(stranger);
        try escrow.openWithAuthorization(terms, 0, type(uint256).max, signature) {
            _passed("openWithAuthorization");
        } catch (bytes memory why) {
            _refused(why, true);
        }
    }

    // ---------------------------------------------------------------- pay

    function spend(uint256 which, uint256 seed, uint256 junk) external attempt("spend") {
        seed = _mix(seed);
        junk = _mix(junk);
        (Terms memory terms, Payment memory payment, bytes memory signature) =
            _helped ? _passing(seed) : _drawn(_mix(which), seed, junk);
        bytes32[] memory proof = _helped || junk % 2 == 0 ? _proof(terms, payment.payee) : new bytes32[](1);
        _as(_submitterOf(terms, seed));
        try escrow.spend(terms, payment, proof, signature) {
            _passed("spend");
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    function settle(uint256 which, uint256 seed, uint256 junk) external attempt("settle") {
        seed = _mix(seed);
        (Group[] memory groups, bytes32[][] memory proofs, bytes[] memory signatures) =
            _helped ? _passingBatch(seed) : _batch(_mix(which), seed, _mix(junk));
        _as(_helped ? _submitterOf(groups[0].terms, seed) : submitters[seed % 3]);
        try escrow.settle(groups, proofs, signatures) returns (uint256 paid) {
            if (paid != 0) _passed("settle");
            else _replay();
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    function settleTo(uint256 which, uint256 seed, uint256 junk) external attempt("settleTo") {
        (which, seed, junk) = (_mix(which), _mix(seed), _mix(junk));
        Row[] memory rows = new Row[](_helped ? 1 : 3);
        bytes32[][] memory proofs = new bytes32[][](rows.length);
        bytes[] memory signatures = new bytes[](!_helped && junk % 32 == 0 ? 2 : rows.length);
        for (uint256 i = 0; i < rows.length; ++i) {
            uint256 random = uint256(keccak256(abi.encode(seed, i)));
            (Terms memory terms, Payment memory payment, bytes memory signature) =
                _helped ? _passing(seed) : _drawn(which / (i + 1), random, random / 3);
            rows[i] = Row(terms, payment);
            proofs[i] = _proof(terms, payment.payee);
            if (i < signatures.length) signatures[i] = signature;
        }
        address to = rows[0].payment.payee;
        _as(_helped ? _submitterOf(rows[0].terms, seed) : submitters[seed % 3]);
        try escrow.settleTo(to, rows, proofs, signatures) returns (uint256 paid) {
            if (paid != 0) _passed("settleTo");
            else _replay();
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    // ---------------------------------------------------------------- hold

    function hold(uint256 which, uint256 seed, uint256 junk) external attempt("hold") {
        seed = _mix(seed);
        junk = _mix(junk);
        if (_helped) {
            _hold(seed);
            return _passed("hold");
        }
        Terms memory terms = _any(_mix(which));
        Hold memory hold_;
        hold_.payment = _mess(_payment(terms, seed), junk);
        hold_.captureBy = junk % 8 == 0 ? uint40(junk >> 3) : uint40(time + junk % 3 days);
        bytes memory signature = _signed(terms, hold_);
        _as(_submitterOf(terms, seed));
        try escrow.hold(terms, hold_, _proof(terms, hold_.payment.payee), signature) {
            _passed("hold");
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    function capture(uint256 which, uint256 seed, uint64 amount, bool close) external attempt("capture") {
        seed = _mix(seed);
        (Terms memory terms, uint32 nonce, HoldState memory held) = _anyHold(_mix(which), seed);
        if ((_helped || amount % 4 != 0) && held.left != 0) amount = 1 + amount % held.left;
        uint64 expected = _helped || seed % 16 != 0 ? held.left : amount;
        _as(_helped || seed % 2 == 0 ? held.payee : submitters[seed % 3]);
        try escrow.capture(terms, nonce, expected, amount, close) {
            _passed("capture");
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    function release(uint256 which, uint256 seed) external attempt("release") {
        seed = _mix(seed);
        (Terms memory terms, uint32 nonce, HoldState memory held) = _anyHold(_mix(which), seed);
        _as(!_helped && seed % 3 == 0 ? stranger : held.payee);
        try escrow.release(terms, nonce) {
            _passed("release");
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    // ---------------------------------------------------------------- refund

    function refund(uint256 which, uint64 amount) external attempt("refund") {
        if (_helped) amount = 1 + amount % 500;
        _lend(payees[0], amount);
        _as(payees[0]);
        try escrow.refund(_any(_mix(which)), amount, "") {
            _passed("refund");
        } catch (bytes memory why) {
            _refused(why, true);
        }
    }

    // ---------------------------------------------------------------- end

    function revoke(uint256 which, uint256 who) external attempt("revoke") {
        (which, who) = (_mix(which), _mix(who));
        Terms memory terms = _helped ? entries[_live(which)].terms : _any(which);
        _as(!_helped && who % 3 != 0 ? stranger : who % 2 == 0 ? terms.agent : terms.operator);
        try escrow.revoke(terms) {
            _passed("revoke");
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    function revokeWithSignature(uint256 which, bytes calldata junk, bool honest)
        external
        attempt("revokeWithSignature")
    {
        which = _mix(which);
        Terms memory terms = _helped ? entries[_live(which)].terms : _any(which);
        bytes memory signature = _helped || (honest && which % 2 == 0) ? _revokeSignature(terms) : junk;
        _as(stranger);
        try escrow.revokeWithSignature(terms, signature) {
            _passed("revokeWithSignature");
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    /// @dev Terms that nobody opened: their operator's word withdraws them, and nobody else's.
    function withdraw(uint256 which, uint256 who, bytes calldata junk) external attempt("withdraw") {
        (which, who) = (_mix(which), _mix(who));
        Terms memory terms = _freshToWithdraw(which);
        bool right = _helped || who % 2 == 0;
        if (!right) withdrawn.pop();
        if (who >> 8 & 1 == 0) {
            bytes memory signature = right ? _revokeSignature(terms) : junk;
            _as(stranger);
            try escrow.revokeWithSignature(terms, signature) {
                _require(right, "I7: withdrawn by nobody's word");
                _passed("withdraw");
            } catch (bytes memory why) {
                _refused(why, false);
            }
        } else {
            _as(right ? terms.operator : who >> 9 & 1 == 0 ? terms.agent : stranger);
            try escrow.revoke(terms) {
                _require(right, "I7: withdrawn by another");
                _passed("withdraw");
            } catch (bytes memory why) {
                _refused(why, false);
            }
        }
    }

    function sweep(uint256 which) external attempt("sweep") {
        which = _mix(which);
        Terms memory terms = _helped ? entries[_over(which)].terms : _oneThatIsOver(which);
        _as(stranger);
        try escrow.sweep(terms) {
            _passed("sweep");
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    function sweepTo(uint256 which, address to, uint40 deadline) external attempt("sweepTo") {
        which = _mix(which);
        Terms memory terms = _helped ? entries[_over(which)].terms : _oneThatIsOver(which);
        if (_helped || which % 2 == 0) (to, deadline) = (address(0xe15e), type(uint40).max);
        bytes memory signature = _sweepSignature(terms, to, deadline);
        bool own = (which >> 8) % 4 == 0;
        if (own) signature = "";
        _as(own ? terms.operator : stranger);
        try escrow.sweepTo(terms, to, deadline, signature) {
            _passed("sweepTo");
        } catch (bytes memory why) {
            _refused(why, false);
        }
    }

    /// @dev I7: an operator's word replaces a mandate, and nobody else's, with no more of its money than it said.
    function roll(uint256 which, uint256 who, uint64 maxPull, bytes calldata junk) external attempt("roll") {
        (which, who) = (_mix(which), _mix(who));
        Terms memory from = _helped ? entries[_live(which)].terms : _any(which);
        (Terms memory to, uint64 pull) = _successor(from, which);
        if (!_helped && who >> 16 & 7 == 0) to.operator = stranger;
        if (_helped || who >> 8 & 3 != 0) maxPull = pull;
        uint256 before = 0;
        if (from.operator == to.operator) {
            _lend(from.operator, to.cap);
            before = usdc.balanceOf(from.operator);
        }
        bool right = _helped || who >> 24 & 3 != 0;
        bool own = who >> 32 & 1 == 0;
        bytes memory signature = right ? _rollSignature(from, to, maxPull) : junk;
        _as(!own ? stranger : right ? from.operator : from.agent);
        try escrow.roll(from, to, maxPull, signature) {
            _require(right, "I7: rolled by nobody's word");
            _require(usdc.balanceOf(from.operator) + maxPull >= before, "I7: pulled too much");
            _passed("roll");
        } catch (bytes memory why) {
            _refused(why, true);
        }
    }

    // ---------------------------------------------------------------- around

    /// @dev A removed submitter may be allowed again.
    function setSubmitter(uint256 which) external attempt("setSubmitter") {
        which = _mix(which);
        _as(guardians[which % 2]);
        escrow.setSubmitter(submitters[(which >> 8) % 3], which >> 16 & 3 != 0);
        _passed("setSubmitter");
    }

    function passTime(uint256 seed) external {
        time += seed % 8 hours;
    }

    function donate(uint8 amount) external {
        if (usdc.paused()) return;
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

    // ---------------------------------------------------------------- whatever

    function _drawn(uint256 which, uint256 seed, uint256 junk)
        private
        returns (Terms memory terms, Payment memory payment, bytes memory signature)
    {
        terms = _any(which);
        payment = _mess(_payment(terms, seed), junk);
        signature = _signed(terms, payment);
        if (junk % 16 == 0) payment.payee = address(0xbad);
    }

    function _batch(uint256 which, uint256 seed, uint256 junk)
        private
        returns (Group[] memory groups, bytes32[][] memory proofs, bytes[] memory signatures)
    {
        groups = new Group[](2);
        proofs = new bytes32[][](6);
        signatures = new bytes[](junk % 32 == 0 ? 5 : 6);
        for (uint256 i = 0; i < 6; ++i) {
            if (i % 3 == 0) groups[i / 3] = Group(_any(which / (i + 1)), new Payment[](3));
            uint256 random = uint256(keccak256(abi.encode(seed, i)));
            Payment memory payment = _mess(_payment(groups[i / 3].terms, random), random / 3);
            if (i % 2 == 0) payment.payee = payees[seed % 4];
            bytes memory signature = _signed(groups[i / 3].terms, payment);
            proofs[i] = _proof(groups[i / 3].terms, payment.payee);
            if (i < signatures.length) signatures[i] = signature;
            groups[i / 3].payments[i % 3] = payment;
        }
    }

    function _passingBatch(uint256 seed)
        private
        returns (Group[] memory groups, bytes32[][] memory proofs, bytes[] memory signatures)
    {
        (Terms memory terms, Payment memory payment, bytes memory signature) = _passing(seed);
        (groups, proofs, signatures) = (new Group[](1), new bytes32[][](1), new bytes[](1));
        (groups[0], proofs[0], signatures[0]) = (Group(terms, _rows(payment)), _proof(terms, payment.payee), signature);
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

    /// @dev Mostly one that is not over; surely, if that helps.
    function _anyHold(uint256 which, uint256 seed)
        private
        returns (Terms memory terms, uint32 nonce, HoldState memory held)
    {
        if (_helped) {
            bytes32 id;
            (id, nonce) = _heldNow(seed);
            return (entries[id].terms, nonce, escrow.holdOf(id, nonce));
        }
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
        _requireAllAsModeled();
        return breach;
    }
}
