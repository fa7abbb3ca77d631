// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandatePurse} from "../../src/interfaces/IMandatePurse.sol";
import {IMandatePurseFactory} from "../../src/interfaces/IMandatePurseFactory.sol";
import {Payment, Terms} from "../../src/interfaces/Types.sol";
import {Actors} from "./Actors.sol";

/// @notice Mandates with purses. After each call the escrow is as its logs say (I1 to I12), and what left a purse is looked at
/// by the balances of all who can have any: it went where P1 and P2 let it go, or it is a breach.
///
/// Actions that are named by a verb must succeed. Those that begin with `try` do anything, and mostly do not; one that had no
/// luck three times is helped, so that each succeeds in every run.
contract PurseHandler is Actors {
    enum Kind {
        None,
        Pay,
        GiveBack,
        Sweep,
        SweepTo
    }

    /// @dev What is called, and whether it may move money.
    struct Attempt {
        Kind kind;
        address purse;
        address to;
        uint256 value;
        bool permitted;
    }

    address private constant RECIPIENT = address(0xe15e);

    IMandatePurseFactory private factory;
    address[] private purses;
    mapping(address purse => Terms) private termsOf;
    address[2] private cosigners;
    uint256[2] private cosignerKeys;
    uint256 private _nonce;
    mapping(bytes32 action => uint256) private _attempts;

    address[] private holders;
    mapping(address holder => uint256) private _before;

    function setUp() public override {
        super.setUp();
        factory = IMandatePurseFactory(deployCode("MandatePurseFactory.sol:MandatePurseFactory", abi.encode(escrow)));
        for (uint256 i = 0; i < 2; ++i) {
            (cosigners[i], cosignerKeys[i]) = makeAddrAndKey(string.concat("cosigner ", vm.toString(i)));
            vm.prank(guardians[i]);
            escrow.setSubmitter(cosigners[i], true);
        }
        for (uint256 i = 0; i < 3; ++i) {
            holders.push(operators[i]);
        }
        for (uint256 i = 0; i < 4; ++i) {
            holders.push(payees[i]);
        }
        holders.push(RECIPIENT);
        holders.push(stranger);
        holders.push(address(escrow));
        holders.push(factory.implementation());
        _replay();
        _openNow(1);
    }

    // ---------------------------------------------------------------- mandates and purses

    function open(uint256 seed) external counted("open") {
        _open(_mix(seed), false);
    }

    function _openNow(uint256 seed) private returns (address purse) {
        purse = _open(seed, true);
        _replay();
        vm.recordLogs();
    }

    /// @dev The purse is made before the mandate, or after it.
    function _open(uint256 seed, bool now_) private returns (address purse) {
        Terms memory terms = _draw(seed);
        terms.intent = keccak256(abi.encode(seed, ids.length));
        if (now_) (terms.start, terms.expiry) = (uint40(time), uint40(time + 1 days));
        if (now_) terms.captureEnd = terms.expiry;
        purse = factory.purseOf(terms);
        if (terms.payees != 0) {
            terms.payees = _root(purse);
            (listed[terms.payees][purse], listed[terms.payees][payees[0]]) = (true, true);
        }
        if (seed >> 200 & 1 == 0) factory.create(terms);
        usdc.mint(terms.operator, terms.cap);
        vm.prank(terms.operator);
        escrow.open(terms);
        vm.prank(stranger);
        _require(factory.create(terms) == purse, "another purse");
        purses.push(purse);
        holders.push(purse);
        termsOf[purse] = terms;
    }

    function topUp(uint256 seed) external {
        seed = _mix(seed);
        _begin();
        address purse = _live(seed);
        Terms memory terms = termsOf[purse];
        Payment memory payment = _payment(terms, seed);
        (payment.payee, payment.amount) = (purse, uint64(1 + seed % (terms.cap / 20)));
        bytes memory signature = _signed(terms, payment);
        bytes32[] memory proof = _proofOf(terms, payees[0]);
        vm.prank(_submitterOf(terms, seed));
        try escrow.spend(terms, payment, proof, signature) {
            _replay();
            ++successes["topUp"];
        } catch {} // its window or its budget is used up
    }

    /// @dev What others send, sellers above all.
    function donate(uint256 seed, uint64 amount) external {
        _fill(purses[_mix(seed) % purses.length], uint256(amount) + 1);
    }

    function revoke(uint256 seed) external counted("revoke") {
        seed = _mix(seed);
        Terms memory terms = termsOf[_live(seed)];
        vm.prank(seed % 2 == 0 ? terms.operator : terms.agent);
        escrow.revoke(terms);
    }

    /// @dev A removed cosigner may be allowed again.
    function setSubmitter(uint256 seed) external counted("setSubmitter") {
        seed = _mix(seed);
        vm.prank(guardians[seed % 2]);
        escrow.setSubmitter(cosigners[seed % 2], seed >> 8 & 1 == 0);
    }

    function passTime(uint256 seed) external {
        time += seed % 4 hours;
    }

    /// @dev A purse of a mandate that can be paid from.
    function _live(uint256 seed) private returns (address purse) {
        for (uint256 i = 0; i < 4 && i < purses.length; ++i) {
            purse = purses[purses.length - 1 - (seed + i) % (purses.length < 4 ? purses.length : 4)];
            if (_isLive(purse)) return purse;
        }
        return _openNow(seed);
    }

    /// @dev A purse of a mandate that is over.
    function _over(uint256 seed) private returns (address purse) {
        for (uint256 i = 0; i < purses.length; ++i) {
            purse = purses[(seed % purses.length + i) % purses.length];
            if (_isOver(purse)) return purse;
        }
        purse = _live(seed);
        vm.prank(termsOf[purse].operator);
        escrow.revoke(termsOf[purse]);
        _replay();
        vm.recordLogs();
    }

    function _isLive(address purse) private view returns (bool) {
        Terms memory terms = termsOf[purse];
        return !_isOver(purse) && time >= terms.start;
    }

    function _isOver(address purse) private view returns (bool) {
        return entries[_idOf(termsOf[purse])].ended || time >= termsOf[purse].expiry;
    }

    function _fill(address purse, uint256 amount) private {
        usdc.mint(purse, amount);
    }

    function _root(address purse) private view returns (bytes32) {
        (bytes32 a, bytes32 b) = (_leafOf(purse), _leafOf(payees[0]));
        return a < b ? keccak256(bytes.concat(a, b)) : keccak256(bytes.concat(b, a));
    }

    function _leafOf(address account) private pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account))));
    }

    function _proofOf(Terms memory terms, address neighbor) private pure returns (bytes32[] memory proof) {
        if (terms.payees == 0) return proof;
        proof = new bytes32[](1);
        proof[0] = _leafOf(neighbor);
    }

    // ---------------------------------------------------------------- pay

    function pay(uint256 seed) external {
        seed = _mix(seed);
        _begin();
        address purse = _live(seed);
        Terms memory terms = termsOf[purse];
        _fill(purse, 100);
        uint256 side = terms.guardian == guardians[1] ? 1 : 0;
        _allow(side);

        Attempt memory attempt =
            Attempt(Kind.Pay, purse, payees[terms.payees == 0 ? seed % 4 : 0], 1 + seed % 100, true);
        bytes memory signature = _charge(terms, attempt, side, terms.agent);
        _watch();
        _settleCharge(attempt, signature);
        _look(attempt);
        ++successes["pay"];
    }

    /// @dev Whatever is wrong with it: who signed, how much, to whom, when, a bit, the end.
    function tryPay(uint256 seed, uint256 flaw) external {
        (seed, flaw) = (_mix(seed), _mix(flaw));
        _begin();
        bool helped = _helps("tryPay");
        address purse = helped || flaw % 4 == 0 ? _live(seed) : purses[seed % purses.length];
        Terms memory terms = termsOf[purse];
        _fill(purse, 100 + 2 * uint256(terms.perPayment));
        uint256 side = terms.guardian == guardians[1] ? 1 : 0;
        (address signer, uint256 value, address to) = (terms.agent, 1 + seed % 100, payees[0]);
        if (helped) _allow(side);
        else (side, signer, value, to) = _flawed(terms, side, value, seed, flaw);

        bool signed_ = signer == terms.agent
            && (terms.guardian == address(0) || escrow.isSubmitter(terms.guardian, cosigners[side]));
        bool within = _isLive(purse) && value != 0 && (terms.perPayment == 0 || value <= terms.perPayment)
            && (terms.payees == 0 || listed[terms.payees][to]) && to != address(escrow) && to != purse;
        Attempt memory attempt = Attempt(Kind.Pay, purse, to, value, signed_ && within);
        bytes memory signature = _charge(terms, attempt, side, signer);
        if (!helped && (flaw >> 40) % 4 == 0) {
            uint256 bit = (flaw >> 48) % (8 * 320);
            signature[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
            // Nobody looks at a cosigner's half where there is no guardian, nor at an agent's where its wallet is asked.
            bool ignored = bit / 8 >= 224 ? bit / 8 < 288 && terms.guardian == address(0) : signer.code.length != 0;
            attempt.permitted = attempt.permitted && bit / 8 >= 160 && ignored;
        }
        _watch();
        try this.settle(attempt.purse, attempt.to, attempt.value, _nonce, signature) {
            _look(attempt);
            ++successes["tryPay"];
        } catch {
            _look(Attempt(Kind.None, purse, to, value, false));
        }
    }

    /// @dev Who signs, how much, and to whom, each at times another than it should be.
    function _flawed(Terms memory terms, uint256 side, uint256 value, uint256 seed, uint256 flaw)
        private
        view
        returns (uint256, address, uint256, address)
    {
        if ((flaw >> 8) % 8 == 0) side = 0;
        address signer = (flaw >> 16) % 4 == 0 ? operators[seed % 3] : terms.agent;
        if ((flaw >> 24) % 8 == 0) value = 0;
        else if ((flaw >> 24) % 4 == 0) value = terms.perPayment + seed % 2;
        return (side, signer, value, (flaw >> 32) % 2 == 0 ? payees[0] : holders[(flaw >> 36) % holders.length]);
    }

    function _allow(uint256 side) private {
        vm.prank(guardians[side]);
        escrow.setSubmitter(cosigners[side], true);
    }

    /// @dev The bytes that the purse takes. A wallet's signature stands behind the proof.
    function _charge(Terms memory terms, Attempt memory attempt, uint256 side, address signer)
        private
        returns (bytes memory)
    {
        bytes memory words = abi.encode(attempt.to, attempt.value, 0, type(uint256).max, ++_nonce);
        bytes32 typeHash = usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH();
        bytes32 structHash = keccak256(bytes.concat(abi.encode(typeHash, attempt.purse), words));
        bytes32 digest = _digest(usdc.DOMAIN_SEPARATOR(), structHash);
        (bytes32 r, bytes32 vs) = vm.signCompact(cosignerKeys[side], digest);
        bytes memory byAgent = _signature(signer, digest);
        bytes32[] memory proof = _proofOf(terms, attempt.purse);
        return bytes.concat(
            words,
            signer.code.length != 0 ? new bytes(64) : _compact(byAgent),
            abi.encode(r, vs),
            terms.payees,
            bytes1(uint8(proof.length)),
            abi.encodePacked(proof),
            signer.code.length != 0 ? byAgent : bytes("")
        );
    }

    function _compact(bytes memory signature) private pure returns (bytes memory) {
        bytes32 r;
        uint256 s;
        assembly ("memory-safe") {
            r := mload(add(signature, 0x20))
            s := mload(add(signature, 0x40))
        }
        return abi.encode(r, s | uint256(uint8(signature[64]) - 27) << 255);
    }

    function _settleCharge(Attempt memory attempt, bytes memory signature) private {
        this.settle(attempt.purse, attempt.to, attempt.value, _nonce, signature);
    }

    /// @dev The seller's transaction.
    function settle(address purse, address to, uint256 value, uint256 nonce, bytes calldata signature) external {
        usdc.transferWithAuthorization(purse, to, value, 0, type(uint256).max, bytes32(nonce), signature);
    }

    // ---------------------------------------------------------------- give back

    function giveBack(uint256 seed) external {
        seed = _mix(seed);
        _begin();
        address purse = purses[seed % purses.length];
        Terms memory terms = termsOf[purse];
        _fill(purse, 100);
        address caller_ = terms.guardian == address(0) || seed & 256 == 0 ? terms.operator : submitters[seed % 3];
        uint64 amount = uint64(1 + seed % (usdc.balanceOf(purse) > type(uint64).max ? 100 : usdc.balanceOf(purse)));
        _watch();
        vm.prank(caller_);
        IMandatePurse(purse).giveBack(terms.payees, amount, bytes32(seed));
        _look(Attempt(Kind.GiveBack, purse, address(escrow), amount, true));
        ++successes["giveBack"];
    }

    function tryGiveBack(uint256 seed, uint256 flaw, uint64 amount, bytes32 root) external {
        (seed, flaw) = (_mix(seed), _mix(flaw));
        _begin();
        address purse = purses[seed % purses.length];
        Terms memory terms = termsOf[purse];
        _fill(purse, 100);
        bool helped = _helps("tryGiveBack");
        address caller_ = helped ? terms.operator : _anyone(terms, flaw);
        if (helped || flaw >> 8 & 3 != 0) root = terms.payees;
        if (helped || flaw >> 16 & 3 != 0) amount = 1 + amount % 100;
        bool permitted = caller_ == terms.operator || escrow.isSubmitter(terms.guardian, caller_);
        _watch();
        vm.prank(caller_);
        try IMandatePurse(purse).giveBack(root, amount, "") {
            _look(Attempt(Kind.GiveBack, purse, address(escrow), amount, permitted));
            ++successes["tryGiveBack"];
        } catch {
            _look(Attempt(Kind.None, purse, address(escrow), amount, false));
        }
    }

    // ---------------------------------------------------------------- end

    /// @dev P4.
    function sweep(uint256 seed) external {
        seed = _mix(seed);
        _begin();
        address purse = _over(seed);
        _fill(purse, 100);
        Terms memory terms = termsOf[purse];
        _watch();
        vm.prank(stranger);
        IMandatePurse(purse).sweep(terms.payees);
        _look(Attempt(Kind.Sweep, purse, terms.operator, 0, true));
        _require(usdc.balanceOf(purse) == 0, "P4: kept back");
        ++successes["sweep"];
    }

    function sweepTo(uint256 seed) external {
        seed = _mix(seed);
        _begin();
        address purse = _over(seed);
        _fill(purse, 100);
        Terms memory terms = termsOf[purse];
        _watch();
        vm.prank(terms.operator);
        IMandatePurse(purse).sweepTo(terms.payees, RECIPIENT);
        _look(Attempt(Kind.SweepTo, purse, RECIPIENT, 0, true));
        ++successes["sweepTo"];
    }

    function trySweep(uint256 seed, uint256 flaw, bytes32 root) external {
        (seed, flaw) = (_mix(seed), _mix(flaw));
        _begin();
        bool helped = _helps("trySweep");
        address purse = helped ? _over(seed) : purses[seed % purses.length];
        if (helped || seed >> 128 & 1 == 0) _fill(purse, 100);
        Terms memory terms = termsOf[purse];
        address caller_ = helped ? terms.operator : _anyone(terms, flaw);
        if (helped || flaw >> 8 & 3 != 0) root = terms.payees;
        address to = helped ? RECIPIENT : holders[(flaw >> 16) % holders.length];
        bool toOther = flaw >> 24 & 1 == 0;
        bytes memory call =
            toOther ? abi.encodeCall(IMandatePurse.sweepTo, (root, to)) : abi.encodeCall(IMandatePurse.sweep, (root));
        bool permitted = _isOver(purse) && (!toOther || caller_ == terms.operator);
        _watch();
        vm.prank(caller_);
        (bool ok,) = purse.call(call);
        if (!ok) return _look(Attempt(Kind.None, purse, to, 0, false));
        _look(Attempt(toOther ? Kind.SweepTo : Kind.Sweep, purse, toOther ? to : terms.operator, 0, permitted));
        ++successes["trySweep"];
    }

    /// @dev Whether an action that tries must be helped.
    function _helps(bytes32 action) private returns (bool) {
        return successes[action] == 0 && ++_attempts[action] > 3;
    }

    function _anyone(Terms memory terms, uint256 seed) private view returns (address) {
        address[6] memory callers =
            [terms.operator, terms.agent, terms.guardian, submitters[seed % 3], cosigners[seed % 2], stranger];
        return callers[(seed >> 128) % 6];
    }

    // ---------------------------------------------------------------- what moved

    /// @dev Remembers what everybody has; and what is logged from here on is replayed.
    function _watch() private {
        _replay();
        vm.recordLogs();
        for (uint256 i = 0; i < holders.length; ++i) {
            _before[holders[i]] = usdc.balanceOf(holders[i]);
        }
    }

    /// @dev P1, P2: what left the purse is what the attempt may move, and it went there. Nothing else moved.
    function _look(Attempt memory attempt) private {
        if (attempt.kind == Kind.None) vm.getRecordedLogs(); // of a call that was undone
        _replay();
        uint256 left = _before[attempt.purse] - usdc.balanceOf(attempt.purse);
        _require(attempt.kind != Kind.None || left == 0, "P1: left by a call that failed");
        _require(left == 0 || attempt.permitted, "P1: left without leave");
        if (attempt.kind == Kind.Pay || attempt.kind == Kind.GiveBack) {
            _require(left == attempt.value, "P1: another amount");
        }
        _before[attempt.purse] -= left;
        // What is given back goes to the mandate, and what does not fit there to the operator.
        address operator_ = termsOf[attempt.purse].operator;
        uint256 arrived = usdc.balanceOf(attempt.to) - _before[attempt.to];
        if (attempt.kind == Kind.GiveBack) arrived += usdc.balanceOf(operator_) - _before[operator_];
        _require(arrived == left, "P1: went elsewhere");
        for (uint256 i = 0; i < holders.length; ++i) {
            bool concerned = holders[i] == attempt.to || (attempt.kind == Kind.GiveBack && holders[i] == operator_);
            _require(concerned || usdc.balanceOf(holders[i]) == _before[holders[i]], "P1: moved others' money");
        }
        _require(usdc.allowance(attempt.purse, address(escrow)) == 0, "P1: an allowance was left");
    }

    function check() external returns (string memory) {
        vm.warp(time);
        _requireAllAsModeled();
        return breach;
    }
}
