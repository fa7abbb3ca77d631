// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {IMandateEscrow} from "../../src/interfaces/IMandateEscrow.sol";
import {Group, Hold, HoldState, Mandate, Payment, Reason, Status, Terms} from "../../src/interfaces/Types.sol";
import {MockUSDC} from "../mocks/MockUSDC.sol";
import {MockUSDCProxy} from "../mocks/MockUSDCProxy.sol";

/// @notice An escrow, its token, and everybody who deals with it.
abstract contract EscrowTest is Test {
    uint40 internal constant NOW = 1_800_000_000;
    uint64 internal constant CAP = 100e6;

    MockUSDC internal usdc;
    IMandateEscrow internal escrow;

    address internal operator;
    uint256 internal operatorKey;
    address internal agent;
    uint256 internal agentKey;
    address internal guardian = makeAddr("guardian");
    address internal submitter = makeAddr("submitter");
    address internal payee = makeAddr("payee");
    address internal stranger = makeAddr("stranger");

    function setUp() public virtual {
        vm.warp(NOW);
        (operator, operatorKey) = makeAddrAndKey("operator");
        (agent, agentKey) = makeAddrAndKey("agent");

        usdc = MockUSDC(address(new MockUSDCProxy(address(new MockUSDC()))));
        escrow = IMandateEscrow(deployCode("MandateEscrow.sol:MandateEscrow", abi.encode(usdc)));

        vm.prank(guardian);
        escrow.setSubmitter(submitter, true);
    }

    // ---------------------------------------------------------------- terms

    /// @dev Terms with a guardian and nothing optional.
    function _terms() internal view returns (Terms memory terms) {
        terms.operator = operator;
        terms.agent = agent;
        terms.guardian = guardian;
        terms.cap = CAP;
        terms.start = NOW;
        terms.expiry = NOW + 30 days;
        terms.captureEnd = NOW + 70 days;
        terms.intent = keccak256("intent");
    }

    /// @dev A mandate's id, by the words of EIP-712.
    function _idOf(Terms memory terms) internal view returns (bytes32) {
        bytes32 typeHash = keccak256(
            "Terms(address operator,address agent,address guardian,uint64 cap,uint64 perPayment,uint64 windowCap,uint32 window,uint40 start,uint40 expiry,uint40 captureEnd,bytes32 payees,bytes32 intent,bool refundsRestoreBudget)"
        );
        return _digest(escrow.domainSeparator(), keccak256(abi.encode(typeHash, terms)));
    }

    function _fund(address account, uint256 amount) internal {
        usdc.mint(account, amount);
        vm.prank(account);
        usdc.approve(address(escrow), amount);
    }

    function _open(Terms memory terms) internal returns (bytes32 id) {
        _fund(terms.operator, terms.cap);
        vm.prank(terms.operator);
        return escrow.open(terms);
    }

    // ---------------------------------------------------------------- payments

    /// @dev A payment of the default payee, signed by the agent.
    function _payment(Terms memory terms, uint64 amount, uint32 nonce) internal view returns (Payment memory) {
        return _paymentTo(terms, payee, amount, nonce);
    }

    function _paymentTo(Terms memory terms, address to, uint64 amount, uint32 nonce)
        internal
        view
        returns (Payment memory payment)
    {
        payment.payee = to;
        payment.amount = amount;
        payment.nonce = nonce;
        payment.deadline = NOW + 60 days;
        payment.ref = keccak256("ref");
        _sign(terms, payment);
    }

    /// @dev Signs the payment, as it is now, with the agent's key.
    function _sign(Terms memory terms, Payment memory payment) internal view {
        (payment.r, payment.vs) = vm.signCompact(agentKey, _spendDigest(_idOf(terms), payment));
    }

    function _spendDigest(bytes32 id, Payment memory payment) internal view returns (bytes32) {
        bytes32 typeHash =
            keccak256("Spend(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,bytes32 ref)");
        bytes32 structHash = keccak256(
            abi.encode(typeHash, id, payment.payee, payment.amount, payment.nonce, payment.deadline, payment.ref)
        );
        return _digest(escrow.domainSeparator(), structHash);
    }

    function _digest(bytes32 domain, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    function _spend(Terms memory terms, Payment memory payment) internal {
        vm.prank(submitter);
        escrow.spend(terms, payment);
    }

    function _assertRefused(Terms memory terms, Payment memory payment, Reason reason) internal {
        assertEq(_canSpend(terms, payment), reason);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, reason));
        _spend(terms, payment);
    }

    function _canSpend(Terms memory terms, Payment memory payment) internal view returns (Reason) {
        return escrow.canSpend(terms, payment, new bytes32[](0), "", submitter);
    }

    // ---------------------------------------------------------------- holds

    /// @dev A hold for the default payee, signed by the agent, which can be captured after the mandate's expiry.
    function _holdOf(Terms memory terms, uint64 amount, uint32 nonce) internal view returns (Hold memory) {
        return _holdFor(terms, payee, amount, nonce);
    }

    function _holdFor(Terms memory terms, address to, uint64 amount, uint32 nonce)
        internal
        view
        returns (Hold memory hold)
    {
        hold.payment.payee = to;
        hold.payment.amount = amount;
        hold.payment.nonce = nonce;
        hold.payment.deadline = NOW + 60 days;
        hold.captureBy = NOW + 50 days;
        hold.payment.ref = keccak256("ref");
        _sign(terms, hold);
    }

    /// @dev Signs the hold, as it is now, with the agent's key.
    function _sign(Terms memory terms, Hold memory hold) internal view {
        (hold.payment.r, hold.payment.vs) = vm.signCompact(agentKey, _holdDigest(_idOf(terms), hold));
    }

    function _holdDigest(bytes32 id, Hold memory hold) internal view returns (bytes32) {
        bytes32 typeHash = keccak256(
            "Hold(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,uint40 captureBy,bytes32 ref)"
        );
        bytes32 structHash = keccak256(
            abi.encode(
                typeHash,
                id,
                hold.payment.payee,
                hold.payment.amount,
                hold.payment.nonce,
                hold.payment.deadline,
                hold.captureBy,
                hold.payment.ref
            )
        );
        return _digest(escrow.domainSeparator(), structHash);
    }

    function _hold(Terms memory terms, Hold memory hold) internal {
        vm.prank(submitter);
        escrow.hold(terms, hold);
    }

    function _capture(Terms memory terms, uint32 nonce, uint64 expectedHeld, uint64 amount, bool close) internal {
        vm.prank(submitter);
        escrow.capture(terms, nonce, expectedHeld, amount, close);
    }

    function _release(Terms memory terms, uint32 nonce) internal {
        vm.prank(submitter);
        escrow.release(terms, nonce);
    }

    function _assertRefused(Terms memory terms, Hold memory hold, Reason reason) internal {
        assertEq(_canHold(terms, hold), reason);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, reason));
        _hold(terms, hold);
    }

    function _canHold(Terms memory terms, Hold memory hold) internal view returns (Reason) {
        return escrow.canHold(terms, hold, new bytes32[](0), "", submitter);
    }

    // ---------------------------------------------------------------- batches

    function _settle(Terms memory terms, Payment[] memory payments) internal returns (uint256 paid) {
        Group[] memory groups = new Group[](1);
        groups[0] = Group(terms, payments);
        return _settle(groups);
    }

    function _settle(Group[] memory groups) internal returns (uint256 paid) {
        vm.prank(submitter);
        return escrow.settle(groups, new bytes32[][](0), new bytes[](0));
    }

    function _rows(Payment memory a) internal pure returns (Payment[] memory rows) {
        rows = new Payment[](1);
        rows[0] = a;
    }

    function _rows(Payment memory a, Payment memory b) internal pure returns (Payment[] memory rows) {
        rows = new Payment[](2);
        (rows[0], rows[1]) = (a, b);
    }

    function _rows(Payment memory a, Payment memory b, Payment memory c) internal pure returns (Payment[] memory rows) {
        rows = new Payment[](3);
        (rows[0], rows[1], rows[2]) = (a, b, c);
    }

    function _expectSpent(bytes32 id, Payment memory payment) internal {
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Spent(id, payment.payee, payment.amount, payment.nonce, payment.ref);
    }

    function _expectSkipped(bytes32 id, uint32 nonce, Reason reason) internal {
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Skipped(id, nonce, reason);
    }

    // ---------------------------------------------------------------- token

    /// @dev What Circle could do to all of us.
    function _upgradeToken(address implementation) internal {
        bytes32 slot = bytes32(uint256(keccak256("eip1967.proxy.implementation")) - 1);
        vm.store(address(usdc), slot, bytes32(uint256(uint160(implementation))));
    }

    /// @dev What the token's answer costs whoever does not copy it.
    function _costOfAsking(bytes memory question) internal returns (uint256) {
        address asked = address(usdc);
        uint256 before = gasleft();
        assembly ("memory-safe") {
            pop(call(gas(), asked, 0, add(question, 0x20), mload(question), 0, 0))
        }
        return before - gasleft();
    }

    // ---------------------------------------------------------------- assertions

    function assertEq(Reason left, Reason right) internal pure {
        assertEq(uint8(left), uint8(right), "reason");
    }

    function assertEq(Status left, Status right) internal pure {
        assertEq(uint8(left), uint8(right), "status");
    }

    function assertEq(HoldState memory left, HoldState memory right) internal pure {
        assertEq(keccak256(abi.encode(left)), keccak256(abi.encode(right)), "hold");
    }

    function assertEq(Mandate memory left, Mandate memory right) internal pure {
        assertEq(keccak256(abi.encode(left)), keccak256(abi.encode(right)), "mandate");
    }
}
