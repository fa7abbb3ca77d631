// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Group, Hold, Mandate, Payment, Status, Terms} from "../../../src/interfaces/Types.sol";
import {OperatorTest} from "../../base/OperatorTest.sol";
import {
    TokenAskingBack,
    TokenReentering,
    TokenReenteringFromPermits,
    TokenReenteringQuietly
} from "../../mocks/HostileTokens.sol";

/// @notice No call of the token leads back into a verb.
contract ReentrancyTest is OperatorTest {
    uint32 private constant HOLD_OF_TOKEN = 50;

    Terms private terms;
    Terms private unopened;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        terms.guardian = address(0);
        id = _open(terms);
        unopened = _terms();
        unopened.intent = "unopened";
    }

    /// @dev Every verb, as the token would have to call it to do harm.
    function _verbs() private view returns (bytes[] memory verbs) {
        Payment memory payment = _paymentTo(terms, stranger, 5, 1);
        Group[] memory groups = new Group[](1);
        groups[0] = Group(terms, _rows(payment));
        Hold memory hold = _holdFor(terms, stranger, 5, 1);
        verbs = new bytes[](16);
        verbs[0] = abi.encodeCall(IMandateEscrow.open, (unopened));
        verbs[1] = abi.encodeCall(IMandateEscrow.openWithAuthorization, (unopened, 0, 0, ""));
        verbs[2] = abi.encodeWithSignature(
            "spend((address,address,address,uint64,uint64,uint64,uint32,uint40,uint40,uint40,bytes32,bytes32,bool),(address,uint64,uint32,uint40,bytes32,bytes32,bytes32))",
            terms,
            payment
        );
        verbs[3] = abi.encodeWithSignature(
            "spend((address,address,address,uint64,uint64,uint64,uint32,uint40,uint40,uint40,bytes32,bytes32,bool),(address,uint64,uint32,uint40,bytes32,bytes32,bytes32),bytes32[],bytes)",
            terms,
            payment,
            new bytes32[](0),
            ""
        );
        verbs[4] = abi.encodeCall(IMandateEscrow.settle, (groups, new bytes32[][](0), new bytes[](0)));
        verbs[5] = abi.encodeCall(IMandateEscrow.revoke, (terms));
        verbs[6] = abi.encodeCall(IMandateEscrow.sweep, (terms));
        verbs[7] = abi.encodeCall(IMandateEscrow.setSubmitter, (stranger, true));
        verbs[8] = abi.encodeWithSignature(
            "hold((address,address,address,uint64,uint64,uint64,uint32,uint40,uint40,uint40,bytes32,bytes32,bool),((address,uint64,uint32,uint40,bytes32,bytes32,bytes32),uint40))",
            terms,
            hold
        );
        verbs[9] = abi.encodeWithSignature(
            "hold((address,address,address,uint64,uint64,uint64,uint32,uint40,uint40,uint40,bytes32,bytes32,bool),((address,uint64,uint32,uint40,bytes32,bytes32,bytes32),uint40),bytes32[],bytes)",
            terms,
            hold,
            new bytes32[](0),
            ""
        );
        verbs[10] = abi.encodeCall(IMandateEscrow.capture, (terms, HOLD_OF_TOKEN, 9, 5, false));
        verbs[11] = abi.encodeCall(IMandateEscrow.release, (terms, HOLD_OF_TOKEN));
        verbs[12] = abi.encodeCall(IMandateEscrow.openWithPermit, (unopened, 0, "", ""));
        verbs[13] = abi.encodeCall(IMandateEscrow.refund, (terms, 1, 0));
        verbs[14] = abi.encodeCall(IMandateEscrow.revokeWithSignature, (terms, ""));
        verbs[15] = abi.encodeCall(IMandateEscrow.sweepTo, (terms, stranger, type(uint40).max, ""));
    }

    function test_reverts_whenOpenIsReentered() public {
        _upgradeToken(address(new TokenReentering()));
        bytes[] memory verbs = _verbs();
        _fund(operator, CAP);
        for (uint256 i = 0; i < verbs.length; ++i) {
            TokenReentering(address(usdc)).reenterWith(verbs[i]);
            vm.expectRevert(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
            vm.prank(operator);
            escrow.open(unopened);
            vm.expectRevert(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
            vm.prank(operator);
            escrow.openWithPermit(unopened, 0, "", "");
        }
    }

    /// @dev The permit is the one call whose failure is passed over, so what it tries fails in silence.
    function test_opensOnce_whenThePermitReenters() public {
        _upgradeToken(address(new TokenReenteringFromPermits()));
        bytes[] memory verbs = _verbs();
        _fund(operator, 2 * CAP);
        uint256 before = vm.snapshotState();
        for (uint256 i = 0; i < verbs.length; ++i) {
            TokenReenteringFromPermits(address(usdc)).reenterWith(verbs[i]);
            vm.prank(operator);
            bytes32 opened = escrow.openWithPermit(unopened, 0, "", "");
            assertFalse(TokenReenteringFromPermits(address(usdc)).reentered());
            assertEq(escrow.mandateOf(opened), Mandate(CAP, 0, 0, 0, Status.Open));
            assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
            assertEq(usdc.balanceOf(address(escrow)), 2 * CAP);
            vm.revertToState(before);
        }
    }

    /// @dev Both pulls of a refund: into the escrow, and past it.
    function test_refundsOnce_whenRefundingIsReentered() public {
        _upgradeToken(address(new TokenReenteringQuietly()));
        terms.refundsRestoreBudget = true;
        id = _open(terms);
        _spend(terms, _payment(terms, 5, 0));
        bytes[] memory verbs = _verbs();
        _fund(payee, 7);
        uint256 before = vm.snapshotState();
        for (uint256 i = 0; i < verbs.length; ++i) {
            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            vm.prank(payee);
            escrow.refund(terms, 7, 0);
            assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
            assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 1, 0, Status.Open));
            assertEq(usdc.balanceOf(address(escrow)), 2 * CAP);
            assertEq(usdc.balanceOf(operator), 2);
            vm.revertToState(before);
        }
    }

    function test_paysOnce_whenPayingIsReentered() public {
        _upgradeToken(address(new TokenReenteringQuietly()));
        bytes[] memory verbs = _verbs();
        uint64 remaining = CAP;
        for (uint32 i = 0; i < verbs.length; ++i) {
            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            _spend(terms, _payment(terms, 5, 10 + 2 * i));
            assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
            _settle(terms, _rows(_payment(terms, 5, 11 + 2 * i)));
            assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
            remaining -= 10;
            assertEq(escrow.mandateOf(id).remaining, remaining);
            assertEq(usdc.balanceOf(address(escrow)), remaining);
        }
        assertEq(usdc.balanceOf(stranger), 0);
    }

    /// @dev The hold is one of the token's own, so that it could capture again, or release what it is being paid.
    function test_paysOnce_whenCapturingIsReentered() public {
        _upgradeToken(address(new TokenReenteringQuietly()));
        bytes[] memory verbs = _verbs();
        _hold(terms, _holdOf(terms, 14, 2));
        _holdForTheToken();
        uint256 held = vm.snapshotState();
        for (uint32 i = 0; i < verbs.length; ++i) {
            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            vm.prank(payee);
            escrow.capture(terms, 2, 14, 5, false);
            assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
            assertEq(escrow.mandateOf(id), Mandate(CAP - 23, 18, uint88(1) << HOLD_OF_TOKEN | 4, 0, Status.Open));
            assertEq(usdc.balanceOf(address(escrow)), CAP - 5);
            vm.revertToState(held);
        }
    }

    /// @dev No payee may be the token, so a hold of its is written into the escrow as if one had been made.
    function _holdForTheToken() private {
        address other = makeAddr("other");
        _hold(terms, _holdFor(terms, other, 9, HOLD_OF_TOKEN));
        vm.record();
        escrow.holdOf(id, HOLD_OF_TOKEN);
        (bytes32[] memory slots,) = vm.accesses(address(escrow));
        uint256 word = uint256(vm.load(address(escrow), slots[0]));
        assertEq(uint160(word), uint160(other));
        vm.store(address(escrow), slots[0], bytes32(word ^ uint160(other) ^ uint160(address(usdc))));
        assertEq(escrow.holdOf(id, HOLD_OF_TOKEN).payee, address(usdc));
    }

    function test_returnsOnce_whenTheEndIsReentered() public {
        _upgradeToken(address(new TokenReenteringQuietly()));
        usdc.mint(address(escrow), CAP);
        bytes[] memory verbs = _verbs();
        uint256 open = vm.snapshotState();
        for (uint32 i = 0; i < verbs.length; ++i) {
            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            vm.prank(operator);
            escrow.revoke(terms);
            _assertReturnedOnce();
            vm.revertToState(open);

            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            escrow.revokeWithSignature(terms, _sign(operatorKey, _revokeDigest(id)));
            _assertReturnedOnce();
            vm.revertToState(open);

            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            vm.warp(terms.expiry);
            escrow.sweep(terms);
            _assertReturnedOnce();
            vm.revertToState(open);

            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            vm.warp(terms.expiry);
            escrow.sweepTo(
                terms, operator, type(uint40).max, _sign(operatorKey, _sweepDigest(id, operator, type(uint40).max))
            );
            _assertReturnedOnce();
            vm.revertToState(open);
        }
    }

    function _assertReturnedOnce() private view {
        assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
        assertEq(usdc.balanceOf(operator), CAP);
        assertEq(usdc.balanceOf(address(escrow)), CAP);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 0, 0, Status.Ended));
    }

    // ---------------------------------------------------------------- views

    /// @dev Whoever asks while money is on its way hears what will be true then; of a batch, what was true before the group.
    function test_answersWithWhatIsBooked_whileMoneyMoves() public {
        _hold(terms, _holdOf(terms, 9, 2));
        _upgradeToken(address(new TokenAskingBack()));
        TokenAskingBack(address(usdc)).ask(abi.encodeCall(IMandateEscrow.mandateOf, (id)));
        _spend(terms, _payment(terms, 5, 0));
        _assertAnswered(Mandate(CAP - 14, 9, 5, 0, Status.Open));
        vm.prank(payee);
        escrow.capture(terms, 2, 9, 4, true);
        _assertAnswered(Mandate(CAP - 9, 0, 5, 0, Status.Open));
        _settle(terms, _rows(_payment(terms, 5, 1)));
        _assertAnswered(Mandate(CAP - 9, 0, 5, 0, Status.Open));
        assertEq(escrow.mandateOf(id), Mandate(CAP - 14, 0, 7, 0, Status.Open));
        vm.prank(operator);
        escrow.revoke(terms);
        _assertAnswered(Mandate(0, 0, 7, 0, Status.Ended));
    }

    function _assertAnswered(Mandate memory booked) private view {
        assertEq(abi.decode(TokenAskingBack(address(usdc)).answer(), (Mandate)), booked);
    }
}
