// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandatePurse} from "../../src/interfaces/IMandatePurse.sol";
import {IMandatePurseFactory} from "../../src/interfaces/IMandatePurseFactory.sol";
import {Payment, Terms} from "../../src/interfaces/Types.sol";
import {EscrowTest} from "./EscrowTest.sol";

/// @notice A purse of a mandate that allows two payees, the purse and the seller, and has paid the purse once.
abstract contract PurseTest is EscrowTest {
    /// @dev What a seller charges by EIP-3009.
    struct Charge {
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    bytes4 internal constant YES = 0x1626ba7e;
    bytes4 internal constant NO = 0xffffffff;
    uint64 internal constant FLOAT = 20e6;
    uint64 internal constant PER_PAYMENT = 10e6;
    uint256 internal constant WORDS = 160;

    IMandatePurseFactory internal factory;
    IMandatePurse internal purse;
    Terms internal terms;
    bytes32 internal id;
    uint256 internal submitterKey;

    function setUp() public virtual override {
        super.setUp();
        (, submitterKey) = makeAddrAndKey("submitter");
        factory = IMandatePurseFactory(deployCode("MandatePurseFactory.sol:MandatePurseFactory", abi.encode(escrow)));
        _start(_purseTerms());
    }

    function _purseTerms() internal view returns (Terms memory terms_) {
        terms_ = _terms();
        terms_.perPayment = PER_PAYMENT;
        terms_.refundsRestoreBudget = true;
    }

    /// @dev From here on the test is about these terms, which list the purse and the seller.
    function _start(Terms memory terms_) internal {
        address purse_ = factory.purseOf(terms_);
        terms_.payees = _pair(_leaf(purse_), _leaf(payee));
        _startAsTheyAre(terms_);
    }

    function _startAsTheyAre(Terms memory terms_) internal {
        terms = terms_;
        purse = IMandatePurse(factory.create(terms_));
        id = _open(terms_);
        usdc.mint(address(purse), FLOAT - PER_PAYMENT);
        if (block.timestamp >= terms_.start) _topUp(PER_PAYMENT, 0);
        else usdc.mint(address(purse), PER_PAYMENT);
    }

    /// @dev The operator extends the mandate, with what is left of it.
    function _roll() internal {
        Terms memory next = abi.decode(abi.encode(terms), (Terms));
        next.cap = escrow.mandateOf(id).remaining;
        next.expiry += 1 days;
        next.captureEnd += 1 days;
        vm.prank(operator);
        escrow.roll(terms, next, 0, "");
    }

    function _topUp(uint64 amount, uint32 nonce) internal {
        Payment memory payment = _paymentTo(terms, address(purse), amount, nonce);
        vm.prank(submitter);
        escrow.spend(terms, payment, _proofOf(payee), "");
    }

    // ---------------------------------------------------------------- lists

    function _leaf(address account) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account))));
    }

    function _pair(bytes32 a, bytes32 b) internal pure returns (bytes32) {
        return a < b ? keccak256(bytes.concat(a, b)) : keccak256(bytes.concat(b, a));
    }

    /// @dev The proof of the payee beside this one, in a list of two.
    function _proofOf(address neighbor) internal pure returns (bytes32[] memory proof) {
        proof = new bytes32[](1);
        proof[0] = _leaf(neighbor);
    }

    // ---------------------------------------------------------------- charges

    function _charge(uint256 value) internal view returns (Charge memory) {
        return Charge(payee, value, 0, NOW + 1 hours, keccak256("nonce"));
    }

    function _digestOf(Charge memory charge) internal view returns (bytes32) {
        return _digestOf(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), charge);
    }

    function _digestOf(bytes32 typeHash, Charge memory charge) internal view returns (bytes32) {
        return _digest(usdc.DOMAIN_SEPARATOR(), keccak256(abi.encode(typeHash, address(purse), charge)));
    }

    function _compact(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 vs) = vm.signCompact(key, digest);
        return abi.encode(r, vs);
    }

    /// @dev What the list needs: the seller's neighbor is the purse.
    function _tail() internal view returns (bytes memory) {
        return abi.encodePacked(uint8(1), _leaf(address(purse)));
    }

    /// @dev The bytes that the purse takes, in their order.
    function _join(Charge memory charge, bytes memory byAgent, bytes memory bySubmitter, bytes memory tail)
        internal
        view
        returns (bytes memory)
    {
        return bytes.concat(abi.encode(charge), byAgent, bySubmitter, terms.payees, tail);
    }

    /// @dev Signed by agent and submitter.
    function _signatureOf(Charge memory charge) internal view returns (bytes memory) {
        return _signatureBy(charge, agentKey, submitterKey);
    }

    function _signatureBy(Charge memory charge, uint256 agentKey_, uint256 submitterKey_)
        internal
        view
        returns (bytes memory)
    {
        bytes32 digest = _digestOf(charge);
        return _join(charge, _compact(agentKey_, digest), _compact(submitterKey_, digest), _tail());
    }

    /// @dev The seller's transaction, which anyone may send.
    function _settleCharge(Charge memory charge, bytes memory signature) internal {
        vm.prank(stranger);
        usdc.transferWithAuthorization(
            address(purse), charge.to, charge.value, charge.validAfter, charge.validBefore, charge.nonce, signature
        );
    }

    function _settleCharge(Charge memory charge) internal {
        _settleCharge(charge, _signatureOf(charge));
    }

    // ---------------------------------------------------------------- assertions

    function _assertAnswers(bytes4 answer, Charge memory charge, bytes memory signature) internal view {
        assertEq(purse.isValidSignature(_digestOf(charge), signature), answer);
    }

    function _assertYes(Charge memory charge) internal view {
        _assertAnswers(YES, charge, _signatureOf(charge));
    }

    function _assertNo(Charge memory charge) internal view {
        _assertAnswers(NO, charge, _signatureOf(charge));
    }

    /// @dev Neither for the purse, nor for the token that asks it.
    function _assertNotPaid(Charge memory charge, bytes memory signature) internal {
        _assertAnswers(NO, charge, signature);
        vm.expectRevert("FiatTokenV2: invalid signature");
        _settleCharge(charge, signature);
    }
}
