// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Group, Hold, Mandate, Payment, Reason, Row, Status, Terms} from "../../../src/interfaces/Types.sol";
import {OperatorTest} from "../../base/OperatorTest.sol";
import {
    TokenAskingBack,
    TokenReentering,
    TokenReenteringFromAuthorizations,
    TokenReenteringFromPermits,
    TokenReenteringQuietly
} from "../../mocks/HostileTokens.sol";
import {WalletReentering} from "../../mocks/Wallets.sol";

/// @notice No call of the token, and no question to a wallet, leads back into a verb.
contract ReentrancyTest is OperatorTest {
    uint32 private constant HOLD_OF_TOKEN = 50;

    Terms private terms;
    Terms private unopened;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        // A token that does harm does not refuse itself.
        usdc.unBlacklist(address(usdc));
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
        verbs = new bytes[](18);
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
        verbs[16] = abi.encodeCall(IMandateEscrow.roll, (terms, unopened, type(uint64).max, ""));
        Row[] memory rows = new Row[](1);
        rows[0] = Row(terms, payment);
        verbs[17] = abi.encodeCall(IMandateEscrow.settleTo, (stranger, rows, new bytes32[][](0), new bytes[](0)));
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

    /// @dev One opening's money funds no other: what the token brings for a mandate of its own does not count for the one that
    /// was authorized.
    function test_reverts_whenAnotherOpeningBringsTheMoney() public {
        TokenReenteringFromAuthorizations token_ = TokenReenteringFromAuthorizations(address(usdc));
        _upgradeToken(address(new TokenReenteringFromAuthorizations()));
        Terms memory own = _terms();
        own.operator = address(usdc);
        _fund(own.operator, CAP);
        token_.reenterWith(abi.encodeCall(IMandateEscrow.open, (own)));

        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TransferDeltaMismatch.selector, CAP, CAP, CAP));
        escrow.openWithAuthorization(unopened, 0, type(uint256).max, "");
    }

    function test_opensOnce_whenOpenWithAuthorizationIsReentered() public {
        _upgradeToken(address(new TokenReenteringQuietly()));
        bytes[] memory verbs = _verbs();
        bytes memory signature = _authorization(unopened);
        usdc.mint(operator, CAP);
        uint256 before = vm.snapshotState();
        for (uint256 i = 0; i < verbs.length; ++i) {
            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            bytes32 opened = escrow.openWithAuthorization(unopened, 0, type(uint256).max, signature);
            assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
            assertEq(escrow.mandateOf(opened), Mandate(CAP, 0, 0, 0, Status.Open));
            assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
            assertEq(usdc.balanceOf(address(escrow)), 2 * CAP);
            vm.revertToState(before);
        }
    }

    function _authorization(Terms memory of_) private view returns (bytes memory) {
        bytes32 typeHash = usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH();
        bytes32 structHash =
            keccak256(abi.encode(typeHash, operator, escrow, of_.cap, 0, type(uint256).max, _idOf(of_)));
        return _sign(operatorKey, _digest(usdc.DOMAIN_SEPARATOR(), structHash));
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

    function test_paysOnce_whenPayingOnePayeeIsReentered() public {
        _upgradeToken(address(new TokenReenteringQuietly()));
        bytes[] memory verbs = _verbs();
        Row[] memory rows = new Row[](1);
        uint64 remaining = CAP;
        for (uint32 i = 0; i < verbs.length; ++i) {
            TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
            rows[0] = Row(terms, _payment(terms, 5, 10 + i));
            assertEq(escrow.settleTo(payee, rows, new bytes32[][](0), new bytes[](0)), 1);
            assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
            remaining -= 5;
            assertEq(escrow.mandateOf(id).remaining, remaining);
            assertEq(usdc.balanceOf(address(escrow)), remaining);
        }
        assertEq(usdc.balanceOf(stranger), 0);
    }

    /// @dev Both ways: what the next mandate lacks is pulled, and what it does not need goes back.
    function test_rollsOnce_whenRollingIsReentered() public {
        _upgradeToken(address(new TokenReenteringQuietly()));
        bytes[] memory verbs = _verbs();
        Terms memory next = _terms();
        next.guardian = address(0);
        next.intent = "next";
        _fund(operator, 7);
        uint256 before = vm.snapshotState();
        for (uint256 i = 0; i < verbs.length; ++i) {
            for (uint64 cap = CAP - 7; cap <= CAP + 7; cap += 14) {
                TokenReenteringQuietly(address(usdc)).reenterWith(verbs[i]);
                next.cap = cap;
                vm.prank(operator);
                bytes32 opened = escrow.roll(terms, next, 7, "");
                assertFalse(TokenReenteringQuietly(address(usdc)).reentered());
                assertEq(escrow.mandateOf(id), Mandate(0, 0, 0, 0, Status.Ended));
                assertEq(escrow.mandateOf(opened), Mandate(cap, 0, 0, 0, Status.Open));
                assertEq(usdc.balanceOf(address(escrow)), cap);
                assertEq(usdc.balanceOf(operator), 7 + CAP - cap);
                vm.revertToState(before);
            }
        }
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

    // ---------------------------------------------------------------- wallets

    /// @dev While its signature is asked for, the agent's wallet may do nothing of what it may do else, like revoking.
    function test_reverts_whenTheWalletReenters() public {
        WalletReentering wallet = new WalletReentering();
        terms.agent = address(wallet);
        terms.intent = "wallet";
        id = _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        Hold memory hold = _holdOf(terms, 5, 0);
        bytes[] memory verbs = _verbs();
        bytes memory refusal = abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.BadSignature);
        for (uint256 i = 0; i < verbs.length; ++i) {
            wallet.reenterWith(verbs[i]);
            assertEq(escrow.canSpend(terms, payment, new bytes32[](0), "x", stranger), Reason.BadSignature);
            vm.expectRevert(refusal);
            escrow.spend(terms, payment, new bytes32[](0), "x");
            vm.expectRevert(refusal);
            escrow.hold(terms, hold, new bytes32[](0), "x");
        }
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));

        // Nothing but the time stood in its way.
        (bool revoked,) = _callAs(address(wallet), verbs[5]);
        assertTrue(revoked);
    }

    /// @dev Likewise the operator's, whose word ends the mandate: it cannot sweep, or open, meanwhile.
    function test_reverts_whenTheOperatorsWalletReenters() public {
        WalletReentering wallet = new WalletReentering();
        terms.operator = address(wallet);
        id = _open(terms);
        bytes[] memory verbs = _verbs();
        for (uint256 i = 0; i < verbs.length; ++i) {
            wallet.reenterWith(verbs[i]);
            vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotSignedByOperator.selector, wallet));
            escrow.revokeWithSignature(terms, "x");
        }
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
    }

    function _callAs(address sender, bytes memory call) private returns (bool ok, bytes memory answer) {
        vm.prank(sender);
        (ok, answer) = address(escrow).call(call);
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
