// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Hold, Payment, Terms} from "../../src/interfaces/Types.sol";
import {Wallet} from "../mocks/Wallets.sol";
import {Model} from "./Model.sol";

/// @notice Who acts in the stateful tests, and how they sign: three operators, three agents, of which one is a wallet, two
/// guardians with submitters, and four payees,
/// of whom some terms list two.
abstract contract Actors is Model {
    address[3] internal operators;
    address[3] internal agents;
    address[2] internal guardians = [address(0x6a1), address(0x6a2)];
    address[3] internal submitters = [address(0x5b1), address(0x5b2), address(0x5b3)];
    address[4] internal payees = [address(0xca1), address(0xca2), address(0xca3), address(0xca4)];
    bytes32 private _root;
    mapping(address account => uint256) private _keys;

    uint256 internal time = NOW;
    uint32 private _freshNonce;

    mapping(bytes32 action => uint256) public successes;

    function setUp() public virtual override {
        vm.recordLogs();
        super.setUp();
        for (uint256 i = 0; i < 3; ++i) {
            operators[i] = _account(string.concat("operator ", vm.toString(i)));
            agents[i] = _account(string.concat("agent ", vm.toString(i)));
            for (uint256 j = 0; j < 2; ++j) {
                vm.prank(guardians[j]);
                escrow.setSubmitter(submitters[i], true);
            }
            vm.prank(operators[i]);
            usdc.approve(address(escrow), type(uint256).max);
        }
        Wallet wallet = new Wallet(agents[2]);
        _keys[address(wallet)] = _keys[agents[2]];
        agents[2] = address(wallet);
        (bytes32 a, bytes32 b) = (_leaf(payees[0]), _leaf(payees[1]));
        _root = a < b ? keccak256(bytes.concat(a, b)) : keccak256(bytes.concat(b, a));
        (listed[_root][payees[0]], listed[_root][payees[1]]) = (true, true);
        _replay();
    }

    function _account(string memory name) private returns (address account) {
        uint256 key;
        (account, key) = makeAddrAndKey(name);
        _keys[account] = key;
    }

    /// @dev Terms of all kinds, from small to the type's maximum.
    function _draw(uint256 seed) internal view returns (Terms memory terms) {
        terms.operator = operators[seed % 3];
        terms.agent = agents[(seed >> 8) % 3];
        terms.guardian = (seed >> 16) % 4 == 0 ? address(0) : guardians[(seed >> 16) % 2];
        terms.cap = (seed >> 24) % 8 == 0 ? type(uint64).max : uint64(bound(seed >> 32, 1_000, 1_000_000));
        if ((seed >> 27) % 2 == 0) terms.perPayment = terms.cap / 2;
        if ((seed >> 28) % 2 == 0) {
            terms.window = uint32(bound(seed >> 96, 1, 2 days));
            terms.windowCap = terms.cap - terms.cap / 4;
        }
        terms.start = uint40(time + ((seed >> 29) % 4 == 0 ? 1 hours : 0));
        terms.expiry = terms.start + 1 + uint40((seed >> 130) % 10 days);
        terms.captureEnd = terms.expiry + uint40((seed >> 160) % 10 days);
        terms.refundsRestoreBudget = (seed >> 30) % 2 == 0;
        if ((seed >> 31) % 4 == 0) terms.payees = _root;
        terms.intent = bytes32(seed);
    }

    function _leaf(address account) private pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account))));
    }

    /// @dev As good as there is one: none leads from a payee who is not listed.
    function _proof(Terms memory terms, address to) internal view returns (bytes32[] memory proof) {
        if (terms.payees == 0) return proof;
        proof = new bytes32[](1);
        proof[0] = _leaf(to == payees[0] ? payees[1] : payees[0]);
    }

    function _payment(Terms memory terms, uint256 seed) internal returns (Payment memory payment) {
        payment.payee = payees[seed % (terms.payees == 0 || (seed >> 93) % 8 == 0 ? 4 : 2)];
        payment.amount = uint64(1 + (seed >> 8) % (terms.cap / 5 + 1));
        payment.nonce = (seed >> 96) % 8 == 0 ? uint32(seed >> 100) % 300 : _freshNonce++ % 200;
        payment.deadline = uint40(time + 1 + (seed >> 128) % 1 days);
        payment.ref = bytes32(seed);
    }

    /// @dev The wallet signs in `signature`, the others in the payment itself.
    function _signed(Terms memory terms, Payment memory payment) internal returns (bytes memory signature) {
        bytes32 id = _idOf(terms);
        signed[_words(id, payment.payee, payment.amount, payment.nonce, 0, payment.ref)] = true;
        return _signInto(terms.agent, payment, _spendDigest(id, payment));
    }

    function _signed(Terms memory terms, Hold memory hold_) internal returns (bytes memory signature) {
        bytes32 id = _idOf(terms);
        Payment memory payment = hold_.payment;
        signed[_words(id, payment.payee, payment.amount, payment.nonce, hold_.captureBy, payment.ref)] = true;
        return _signInto(terms.agent, payment, _holdDigest(id, hold_));
    }

    function _signInto(address signer, Payment memory payment, bytes32 digest) private view returns (bytes memory) {
        if (signer.code.length != 0) return _signature(signer, digest);
        (payment.r, payment.vs) = vm.signCompact(_keys[signer], digest);
        return "";
    }

    function _signature(address signer, bytes32 digest) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_keys[signer], digest);
        return abi.encodePacked(r, s, v);
    }

    function _revokeSignature(Terms memory terms) internal view returns (bytes memory) {
        bytes32 structHash = keccak256(abi.encode(keccak256("Revoke(bytes32 mandate)"), _idOf(terms)));
        return _signature(terms.operator, _digest(escrow.domainSeparator(), structHash));
    }

    function _sweepSignature(Terms memory terms, address to, uint40 deadline) internal returns (bytes memory) {
        bytes32 id = _idOf(terms);
        signed[_words(id, to, 0, 0, 0, "")] = true;
        bytes32 structHash = keccak256(
            abi.encode(keccak256("Sweep(bytes32 mandate,address recipient,uint40 deadline)"), id, to, deadline)
        );
        return _signature(terms.operator, _digest(escrow.domainSeparator(), structHash));
    }

    function _rollSignature(Terms memory from, Terms memory to, uint64 maxPull) internal view returns (bytes memory) {
        bytes32 typeHash = keccak256("Roll(bytes32 from,bytes32 to,uint64 maxPull)");
        bytes32 structHash = keccak256(abi.encode(typeHash, _idOf(from), _idOf(to), maxPull));
        return _signature(from.operator, _digest(escrow.domainSeparator(), structHash));
    }

    function _permitSignature(Terms memory terms, uint256 deadline) internal view returns (bytes memory) {
        bytes32 structHash = keccak256(
            abi.encode(usdc.PERMIT_TYPEHASH(), terms.operator, escrow, terms.cap, usdc.nonces(terms.operator), deadline)
        );
        return _signature(terms.operator, _digest(usdc.DOMAIN_SEPARATOR(), structHash));
    }

    function _authorization(Terms memory terms) internal view returns (bytes memory) {
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                terms.operator,
                escrow,
                terms.cap,
                0,
                type(uint256).max,
                _idOf(terms)
            )
        );
        return _signature(terms.operator, _digest(usdc.DOMAIN_SEPARATOR(), structHash));
    }

    /// @dev Whoever may send for these terms, if it is not by chance nobody's submitter any more.
    function _submitterOf(Terms memory terms, uint256 seed) internal view returns (address) {
        return terms.guardian == address(0) ? stranger : submitters[seed % 3];
    }

    /// @dev The fuzzer likes small numbers; chances are told by high bits, too.
    function _mix(uint256 seed) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed)));
    }

    function _begin() internal {
        vm.warp(time);
        vm.recordLogs();
    }

    modifier counted(bytes32 action) {
        _begin();
        _;
        _replay();
        ++successes[action];
    }
}
