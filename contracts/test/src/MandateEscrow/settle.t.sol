// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Vm} from "forge-std/Vm.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Group, Mandate, Payment, Reason, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {
    PayeeBurningGas,
    TokenRefusingAnAmount,
    TokenReturningFalse,
    TokenReturningNonsense,
    TokenReverting,
    TokenRevertingWithABomb,
    TokenTellingReceivers
} from "../../mocks/HostileTokens.sol";
import {Wallet, WalletBurningGas, WalletThirsty} from "../../mocks/Wallets.sol";

contract SettleTest is EscrowTest {
    address private alice = makeAddr("alice");
    address private bob = makeAddr("bob");

    Terms private terms;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        id = _open(terms);
    }

    function _otherTerms(uint256 i) private view returns (Terms memory other) {
        other = _terms();
        other.intent = keccak256(abi.encode(i));
    }

    function _transfers() private returns (uint256 count) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(usdc)) ++count;
        }
    }

    // ---------------------------------------------------------------- paying

    function test_succeeds_withNothing() public {
        assertEq(_settle(new Group[](0)), 0);
        assertEq(_settle(terms, new Payment[](0)), 0);
    }

    function test_succeeds_acrossMandatesAndPayees() public {
        Group[] memory groups = new Group[](3);
        for (uint256 i = 0; i < 3; ++i) {
            Terms memory other = _otherTerms(i);
            _open(other);
            groups[i] = Group(other, _rows(_paymentTo(other, alice, 5, 0), _paymentTo(other, bob, 7, 1)));
        }
        assertEq(_settle(groups), 6);
        assertEq(usdc.balanceOf(alice), 15);
        assertEq(usdc.balanceOf(bob), 21);
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(escrow.mandateOf(_idOf(groups[i].terms)), Mandate(CAP - 12, 0, 3, 0, Status.Open));
        }
    }

    /// @dev I11: all that a mandate can have, in one run, up to the last nonce and the last second.
    function test_succeeds_atTypeMaxima() public {
        (terms.cap, terms.perPayment) = (type(uint64).max, type(uint64).max);
        (terms.expiry, terms.captureEnd) = (type(uint32).max, type(uint32).max);
        id = _open(terms);
        vm.warp(type(uint32).max - 1);
        uint64[4] memory amounts = [type(uint64).max - 1, type(uint64).max, 1, 1];
        Payment[] memory rows = new Payment[](4);
        for (uint32 i = 0; i < 4; ++i) {
            rows[i] = _paymentTo(terms, i == 3 ? bob : alice, amounts[i], type(uint32).max - i);
            rows[i].deadline = type(uint40).max;
            _sign(terms, rows[i]);
        }
        uint256 snapshot = vm.snapshotState();
        _expectSkipped(id, type(uint32).max - 1, Reason.InsufficientBudget);
        _expectSkipped(id, type(uint32).max - 3, Reason.InsufficientBudget);
        assertEq(_settle(terms, rows), 2);
        assertEq(usdc.balanceOf(alice), type(uint64).max);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 5 << 85, type(uint32).max - 87, Status.Open));

        // A run of all that the token refuses leaves all, for the row behind.
        vm.revertToState(snapshot);
        usdc.blacklist(alice);
        assertEq(_settle(terms, rows), 1);
        assertEq(
            escrow.mandateOf(id), Mandate(type(uint64).max - 1, 0, 1 << 87, type(uint32).max - 3 - 87, Status.Open)
        );
    }

    function test_emitsExpectedEvents() public {
        Payment[] memory rows =
            _rows(_paymentTo(terms, alice, 5, 0), _paymentTo(terms, bob, 7, 1), _paymentTo(terms, alice, 9, 2));
        for (uint256 i = 0; i < 3; ++i) {
            _expectSpent(id, rows[i]);
        }
        _settle(terms, rows);
    }

    function test_transfersARunOnce() public {
        Payment[] memory rows = new Payment[](5);
        for (uint32 i = 0; i < 5; ++i) {
            rows[i] = _paymentTo(terms, i == 3 ? bob : alice, 10 + i, i);
        }
        vm.recordLogs();
        assertEq(_settle(terms, rows), 5);

        assertEq(_transfers(), 3); // alice ×3, bob, alice
        assertEq(usdc.balanceOf(alice), 10 + 11 + 12 + 14);
        assertEq(usdc.balanceOf(bob), 13);
    }

    function test_endsARunWithItsGroup() public {
        Terms memory other = _otherTerms(1);
        _open(other);
        Group[] memory groups = new Group[](2);
        groups[0] = Group(terms, _rows(_paymentTo(terms, alice, 5, 0)));
        groups[1] = Group(other, _rows(_paymentTo(other, alice, 7, 0)));
        vm.recordLogs();
        assertEq(_settle(groups), 2);
        assertEq(_transfers(), 2);
    }

    /// @dev One mandate may come in several groups; each goes on where the last one ended.
    function test_succeeds_withTheSameMandateTwice() public {
        Group[] memory groups = new Group[](2);
        groups[0] = Group(terms, _rows(_payment(terms, CAP - 5, 0)));
        groups[1] = Group(terms, _rows(_payment(terms, 5, 0), _payment(terms, 6, 1), _payment(terms, 5, 2)));
        assertEq(_settle(groups), 2);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 5, 0, Status.Open));
    }

    /// @dev Runs are cut at 256 rows, the bits of a word.
    function test_succeeds_withLongRuns() public {
        _assertRunOf(255, 1);
        _assertRunOf(256, 1);
        _assertRunOf(257, 2);
    }

    function _assertRunOf(uint32 length, uint256 transfers) private {
        Terms memory other = _otherTerms(length);
        _open(other);
        Payment[] memory rows = new Payment[](length);
        for (uint32 i = 0; i < length; ++i) {
            rows[i] = _paymentTo(other, alice, 1, i);
        }
        uint256 before = usdc.balanceOf(alice);
        vm.recordLogs();
        assertEq(_settle(other, rows), length);
        assertEq(_transfers(), transfers);
        assertEq(usdc.balanceOf(alice), before + length);
    }

    function _longRun(Terms memory other, uint32 length) private view returns (Payment[] memory rows) {
        rows = new Payment[](length);
        for (uint32 i = 0; i < length; ++i) {
            rows[i] = _paymentTo(other, alice, 1, i);
        }
    }

    /// @dev I10: a bad row first, last, and at either side of the cut costs itself alone.
    function test_skipsABadRow_atTheEndsOfALongRun() public {
        Payment[] memory rows = _longRun(terms, 257);
        uint256[4] memory places = [uint256(0), 254, 255, 256];
        for (uint256 i = 0; i < places.length; ++i) {
            rows[places[i]].ref = 0;
            _expectSkipped(id, rows[places[i]].nonce, Reason.BadSignature);
        }
        assertEq(_settle(terms, rows), 253);
        assertEq(usdc.balanceOf(alice), 253);
        assertEq(escrow.mandateOf(id).remaining, CAP - 253);
    }

    /// @dev Both parts of a run that was cut are refused, each row gets its answer, and nothing is used.
    function test_restoresTheCopy_ofALongRun() public {
        usdc.blacklist(alice);
        Payment[] memory rows = _longRun(terms, 257);
        vm.recordLogs();
        assertEq(_settle(terms, rows), 0);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 257);
        for (uint256 i = 0; i < 257; ++i) {
            (uint32 nonce, Reason reason) = abi.decode(logs[i].data, (uint32, Reason));
            assertEq(nonce, i);
            assertEq(reason, Reason.TransferFailed);
        }
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));

        // Refused up to the cut, and paid beyond it: only what paid has moved the nonces.
        _upgradeToken(address(new TokenRefusingAnAmount(256)));
        usdc.unBlacklist(alice);
        assertEq(_settle(terms, rows), 1);
        assertEq(escrow.mandateOf(id), Mandate(CAP - 1, 0, uint88(1) << 87, 256 - 87, Status.Open));
    }

    // ---------------------------------------------------------------- skipping rows

    /// @dev I10: wherever the bad row is, and whether or not it shares the others' payee, the others pay.
    function test_skipsABadRow(uint256 place, uint256 fault, bool sharedPayee) public {
        place = bound(place, 0, 2);
        Payment[] memory rows = new Payment[](3);
        for (uint32 i = 0; i < 3; ++i) {
            rows[i] = _paymentTo(terms, sharedPayee ? alice : address(uint160(0xa11ce + i)), 5, i);
        }
        Reason reason;
        (rows[place], reason) = _spoil(rows[place], bound(fault, 0, 6));

        _expectSkipped(id, rows[place].nonce, reason);
        assertEq(_settle(terms, rows), 2);

        assertEq(escrow.mandateOf(id).remaining, CAP - 10);
        for (uint256 i = 0; i < 3; ++i) {
            bool used = (escrow.mandateOf(id).nonceBits >> i) & 1 == 1;
            assertEq(used, i != place);
        }
    }

    function _spoil(Payment memory row, uint256 fault) private view returns (Payment memory, Reason) {
        if (fault == 0) {
            row.deadline = NOW;
            _sign(terms, row);
            return (row, Reason.DeadlinePassed);
        }
        if (fault == 1) return (_paymentTo(terms, row.payee, 0, row.nonce), Reason.AmountZero);
        if (fault == 2) return (_paymentTo(terms, address(0), 5, row.nonce), Reason.BadPayee);
        if (fault == 3) return (_paymentTo(terms, address(usdc), 5, row.nonce), Reason.BadPayee);
        if (fault == 4) return (_paymentTo(terms, address(escrow), 5, row.nonce), Reason.BadPayee);
        if (fault == 5) return (_paymentTo(terms, row.payee, CAP + 1, row.nonce), Reason.InsufficientBudget);
        row.ref = ~row.ref;
        return (row, Reason.BadSignature);
    }

    /// @dev A run in which no row passes asks the token for nothing, not even to move nothing.
    function test_asksNothingOfTheToken_whenNoRowOfARunPasses() public {
        Payment[] memory rows =
            _rows(_paymentTo(terms, alice, 0, 0), _paymentTo(terms, bob, 5, 1), _paymentTo(terms, alice, CAP, 2));
        vm.expectCall(address(usdc), abi.encodeWithSelector(usdc.transfer.selector), 1);
        assertEq(_settle(terms, rows), 1);
        assertEq(usdc.balanceOf(bob), 5);
    }

    function test_skipsTheSecondUseOfANonce() public {
        _expectSkipped(id, 4, Reason.NonceUsed);
        assertEq(_settle(terms, _rows(_payment(terms, 5, 4), _payment(terms, 6, 4))), 1);
        assertEq(usdc.balanceOf(payee), 5);
    }

    function test_skipsTheSameRowAgain() public {
        Payment memory row = _paymentTo(terms, alice, 5, 4);
        assertEq(_settle(terms, _rows(row, row, row)), 1);
        assertEq(_settle(terms, _rows(row)), 0);
        assertEq(usdc.balanceOf(alice), 5);
    }

    function test_skipsWhatEarlierRowsRetired() public {
        _expectSkipped(id, 0, Reason.NonceRetired);
        assertEq(_settle(terms, _rows(_paymentTo(terms, alice, 5, 88), _paymentTo(terms, bob, 5, 0))), 1);
    }

    function test_skipsWhatEarlierRowsLeftNoBudgetFor() public {
        _expectSkipped(id, 1, Reason.InsufficientBudget);
        uint256 paid = _settle(
            terms,
            _rows(_paymentTo(terms, alice, CAP - 5, 0), _paymentTo(terms, bob, 6, 1), _paymentTo(terms, bob, 5, 2))
        );
        assertEq(paid, 2);
        assertEq(usdc.balanceOf(bob), 5);
    }

    /// @dev Whatever the order: rows that the mandate can pay together all pay, and leave it the same.
    function test_paysTheSame_inAnyOrder(uint256 seed) public {
        uint32 count = 9;
        Payment[] memory rows = new Payment[](count);
        for (uint32 i = 0; i < count; ++i) {
            rows[i] = _paymentTo(terms, [alice, bob, payee][i % 3], CAP / count - i % 2, i == 8 ? 0 : 87 - 10 * i);
        }
        rows[4].ref = 0; // and one that is bad
        uint256 snapshot = vm.snapshotState();
        bytes32 inOrder = _outcome(rows);
        vm.revertToState(snapshot);
        for (uint256 i = count - 1; i > 0; --i) {
            uint256 j = uint256(keccak256(abi.encode(seed, i))) % (i + 1);
            (rows[i], rows[j]) = (rows[j], rows[i]);
        }
        assertEq(_outcome(rows), inOrder);
    }

    function _outcome(Payment[] memory rows) private returns (bytes32) {
        assertEq(_settle(terms, rows), rows.length - 1);
        return
            keccak256(
                abi.encode(escrow.mandateOf(id), usdc.balanceOf(alice), usdc.balanceOf(bob), usdc.balanceOf(payee))
            );
    }

    /// @dev Where they cannot all pay, whoever sends them chooses which do. A payment that a higher nonce has retired is dead.
    function test_paysWhoeverIsFirst_whereNotAllCan() public {
        Payment[] memory rows = _rows(_paymentTo(terms, alice, CAP, 0), _paymentTo(terms, bob, CAP - 5, 88));
        uint256 snapshot = vm.snapshotState();
        _expectSkipped(id, 88, Reason.InsufficientBudget);
        assertEq(_settle(terms, rows), 1);
        assertEq(usdc.balanceOf(alice), CAP);
        vm.revertToState(snapshot);

        (rows[0], rows[1]) = (rows[1], rows[0]);
        _expectSkipped(id, 0, Reason.InsufficientBudget);
        assertEq(_settle(terms, rows), 1);
        assertEq(usdc.balanceOf(bob), CAP - 5);
        _assertRefused(terms, _paymentTo(terms, alice, 5, 0), Reason.NonceRetired);
    }

    // ---------------------------------------------------------------- skipping groups

    function test_skipsAGroupThatDoesNotPay() public {
        Terms memory unknown = _otherTerms(1);
        Terms memory ended = _otherTerms(2);
        _open(ended);
        vm.prank(operator);
        escrow.revoke(ended);
        Terms memory foreign = _otherTerms(3);
        foreign.guardian = stranger;
        _open(foreign);
        Terms memory early = _otherTerms(4);
        early.start = NOW + 1;
        _open(early);

        Group[] memory groups = new Group[](5);
        Terms[4] memory bad = [unknown, ended, foreign, early];
        Reason[4] memory reasons = [Reason.UnknownMandate, Reason.Ended, Reason.NotSubmitter, Reason.NotStarted];
        for (uint256 i = 0; i < 4; ++i) {
            Payment[] memory rows = _rows(_payment(bad[i], 5, 0), _payment(bad[i], 5, 1));
            groups[i] = Group(bad[i], rows);
            _expectSkipped(_idOf(bad[i]), 0, reasons[i]);
            _expectSkipped(_idOf(bad[i]), 1, reasons[i]);
        }
        groups[4] = Group(terms, _rows(_payment(terms, 5, 0)));
        assertEq(_settle(groups), 1);
        assertEq(usdc.balanceOf(payee), 5);
    }

    function test_skipsAnExpiredGroup() public {
        vm.warp(terms.expiry);
        _expectSkipped(id, 0, Reason.Expired);
        assertEq(_settle(terms, _rows(_payment(terms, 5, 0))), 0);
    }

    function test_skipsEverything_fromAStranger() public {
        Group[] memory groups = new Group[](1);
        groups[0] = Group(terms, _rows(_payment(terms, 5, 0)));
        _expectSkipped(id, 0, Reason.NotSubmitter);
        vm.prank(stranger);
        assertEq(escrow.settle(groups, new bytes32[][](0), new bytes[](0)), 0);
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
    }

    // ---------------------------------------------------------------- a token that refuses

    /// @dev I9, I10: the run as a whole is undone, and nothing else.
    function test_skipsTheRunOfABlacklistedPayee(uint256 place) public {
        place = bound(place, 0, 2);
        address[3] memory to = [alice, bob, payee];
        usdc.blacklist(to[place]);
        Payment[] memory rows = new Payment[](6);
        for (uint32 i = 0; i < 6; ++i) {
            rows[i] = _paymentTo(terms, to[i / 2], 5, i);
        }
        _expectSkipped(id, uint32(2 * place), Reason.TransferFailed);
        _expectSkipped(id, uint32(2 * place + 1), Reason.TransferFailed);
        assertEq(_settle(terms, rows), 4);

        Mandate memory mandate = escrow.mandateOf(id);
        assertEq(mandate.remaining, CAP - 20);
        assertEq(mandate.nonceBits, 63 & ~(3 << 2 * place));
        assertEq(usdc.balanceOf(address(escrow)), CAP - 20);

        usdc.unBlacklist(to[place]);
        assertEq(_settle(terms, rows), 2);
    }

    /// @dev A hint says no more than it knows: in a run that the token refuses, rows were skipped for what other rows used,
    /// and that is undone with the run. All of them can still pay.
    function test_undoesWhatItSkippedFor_inARunThatTheTokenRefuses() public {
        Payment[] memory rows = new Payment[](4);
        rows[0] = _paymentTo(terms, alice, 5, 200);
        rows[1] = _paymentTo(terms, alice, 4, 5);
        rows[2] = _paymentTo(terms, alice, 4, 200);
        rows[3] = _paymentTo(terms, alice, CAP - 4, 201);
        usdc.blacklist(alice);
        _expectSkipped(id, 5, Reason.NonceRetired);
        _expectSkipped(id, 200, Reason.NonceUsed);
        _expectSkipped(id, 201, Reason.InsufficientBudget);
        _expectSkipped(id, 200, Reason.TransferFailed);
        assertEq(_settle(terms, rows), 0);

        usdc.unBlacklist(alice);
        _spend(terms, rows[1]);
        _spend(terms, rows[3]);
        assertEq(usdc.balanceOf(alice), CAP);
    }

    /// @dev A token that told receivers would let one of them burn the batch's gas (I10). Then the batch reverts, nothing is
    /// lost, and it goes through without that row.
    function test_losesNothing_whenATokenComesToTellReceivers() public {
        _upgradeToken(address(new TokenTellingReceivers()));
        address burning = address(new PayeeBurningGas());
        Payment[] memory rows = _rows(_paymentTo(terms, burning, 5, 0), _paymentTo(terms, bob, 5, 1));
        Group[] memory groups = new Group[](1);
        groups[0] = Group(terms, rows);
        bytes memory call = abi.encodeCall(IMandateEscrow.settle, (groups, new bytes32[][](0), new bytes[](0)));
        vm.prank(submitter);
        (bool ok,) = address(escrow).call{gas: 1_000_000}(call);
        assertFalse(ok);
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
        assertEq(_settle(terms, _rows(rows[1])), 1);
        assertEq(usdc.balanceOf(bob), 5);
    }

    /// @dev A refused run gives back the budget and the window that it had taken.
    function test_restoresTheCopy_forTheRowsBehind() public {
        usdc.blacklist(alice);
        _expectSkipped(id, 200, Reason.TransferFailed);
        uint256 paid = _settle(terms, _rows(_paymentTo(terms, alice, CAP, 200), _paymentTo(terms, bob, CAP, 0)));
        assertEq(paid, 1);
        assertEq(usdc.balanceOf(bob), CAP);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 1, 0, Status.Open));
    }

    /// @dev Each row gets one answer: its own reason, or the run's.
    function test_reportsEachRowOfARefusedRunOnce() public {
        usdc.blacklist(alice);
        Payment memory bad = _paymentTo(terms, alice, 0, 1);
        vm.recordLogs();
        _settle(terms, _rows(_paymentTo(terms, alice, 5, 0), bad, _paymentTo(terms, alice, 5, 2)));

        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 3);
        uint256[3] memory nonces = [uint256(1), 0, 2];
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(logs[i].topics[0], IMandateEscrow.Skipped.selector);
            (uint32 nonce, Reason reason) = abi.decode(logs[i].data, (uint32, Reason));
            assertEq(nonce, nonces[i]);
            assertEq(reason, i == 0 ? Reason.AmountZero : Reason.TransferFailed);
        }
    }

    function test_skipsEverything_whileTheTokenIsPaused() public {
        usdc.pause();
        Payment[] memory rows = _rows(_paymentTo(terms, alice, 5, 0), _paymentTo(terms, bob, 5, 1));
        assertEq(_settle(terms, rows), 0);
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
        usdc.unpause();
        assertEq(_settle(terms, rows), 2);
    }

    function test_skipsTheRun_whoseSumTheTokenRefuses() public {
        _upgradeToken(address(new TokenRefusingAnAmount(10)));
        Payment[] memory rows =
            _rows(_paymentTo(terms, alice, 5, 0), _paymentTo(terms, alice, 5, 1), _paymentTo(terms, bob, 5, 2));
        assertEq(_settle(terms, rows), 1);
        assertEq(escrow.mandateOf(id), Mandate(CAP - 5, 0, 4, 0, Status.Open));
    }

    function test_skipsEverything_whenTheTokenIsHostile() public {
        address[4] memory tokens = [
            address(new TokenReturningFalse()),
            address(new TokenReturningNonsense()),
            address(new TokenReverting()),
            address(new TokenRevertingWithABomb())
        ];
        Payment[] memory rows = _rows(_paymentTo(terms, alice, 5, 0), _paymentTo(terms, bob, 5, 1));
        uint256[4] memory costs;
        for (uint256 i = 0; i < tokens.length; ++i) {
            _upgradeToken(tokens[i]);
            uint256 before = gasleft();
            assertEq(_settle(terms, rows), 0);
            costs[i] = before - gasleft();
            assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
        }
        uint256 bomb = _costOfAsking(abi.encodeCall(usdc.transfer, (alice, 5)));
        assertGt(bomb, 3_000_000);
        assertLt(costs[3], costs[2] + 2 * bomb + 500_000, "a bomb is not copied");
    }

    // ---------------------------------------------------------------- side arrays

    function test_reverts_whenASideArrayHasAnotherLength(uint256 proofs, uint256 signatures) public {
        (proofs, signatures) = (bound(proofs, 0, 5), bound(signatures, 0, 5));
        Group[] memory groups = new Group[](2);
        groups[0] = Group(terms, _rows(_payment(terms, 5, 0)));
        groups[1] = Group(terms, _rows(_payment(terms, 5, 1), _payment(terms, 5, 2)));

        bool sound = (proofs == 0 || proofs == 3) && (signatures == 0 || signatures == 3);
        if (!sound) {
            vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.BadSideArrays.selector, 3, proofs, signatures));
        }
        vm.prank(submitter);
        escrow.settle(groups, new bytes32[][](proofs), new bytes[](signatures));
    }

    /// @dev The side arrays run over all rows of all groups, the skipped ones too.
    function test_matchesSideArraysToRows() public {
        Terms memory unknown = _otherTerms(1);
        Terms memory listed = _otherTerms(2);
        (bytes32 a, bytes32 b) = (_leaf(alice), _leaf(bob));
        listed.payees = a < b ? keccak256(bytes.concat(a, b)) : keccak256(bytes.concat(b, a));
        listed.agent = address(new Wallet(agent));
        _open(listed);

        Group[] memory groups = new Group[](3);
        groups[0] = Group(unknown, _rows(_payment(unknown, 5, 0), _payment(unknown, 5, 1)));
        groups[1] = Group(terms, _rows(_payment(terms, 5, 0)));
        groups[2] = Group(
            listed,
            _rows(_paymentTo(listed, alice, 5, 0), _paymentTo(listed, bob, 5, 1), _paymentTo(listed, stranger, 5, 2))
        );
        bytes32[][] memory proofs = new bytes32[][](6);
        (proofs[3], proofs[4], proofs[5]) = (_proof(b), _proof(a), _proof(b));
        bytes[] memory signatures = new bytes[](6);
        for (uint256 i = 0; i < 3; ++i) {
            signatures[3 + i] = _walletSignature(listed, groups[2].payments[i]);
        }

        _expectSkipped(_idOf(listed), 2, Reason.PayeeNotAllowed);
        vm.prank(submitter);
        assertEq(escrow.settle(groups, proofs, signatures), 3);
        assertEq(usdc.balanceOf(alice), 5);
        assertEq(usdc.balanceOf(bob), 5);
    }

    function _leaf(address account) private pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account))));
    }

    function _proof(bytes32 sibling) private pure returns (bytes32[] memory proof) {
        proof = new bytes32[](1);
        proof[0] = sibling;
    }

    function _walletSignature(Terms memory of_, Payment memory payment) private view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(agentKey, _spendDigest(_idOf(of_), payment));
        return abi.encodePacked(r, s, v);
    }

    // ---------------------------------------------------------------- gas

    /// @dev I10: a wallet that burns its gas costs its row, not its neighbors.
    function test_skipsARowWhoseWalletBurnsGas() public {
        Terms memory burning = _otherTerms(1);
        burning.agent = address(new WalletBurningGas());
        _open(burning);
        Group[] memory groups = new Group[](2);
        groups[0] = Group(burning, _rows(_payment(burning, 5, 0)));
        groups[1] = Group(terms, _rows(_payment(terms, 5, 0)));
        bytes[] memory signatures = new bytes[](2);
        signatures[0] = "x";

        _expectSkipped(_idOf(burning), 0, Reason.BadSignature);
        vm.prank(submitter);
        assertEq(escrow.settle{gas: 800_000}(groups, new bytes32[][](0), signatures), 1);

        // What is cold was paid for: the two differ by what the wallet takes.
        uint256[2] memory costs;
        for (uint32 i = 0; i < 2; ++i) {
            groups[1].payments[0] = _payment(terms, 5, i + 1);
            vm.prank(submitter);
            uint256 before = gasleft();
            escrow.settle(groups, new bytes32[][](0), signatures);
            costs[i] = before - gasleft();
            signatures[0] = "";
        }
        assertGt(costs[0], costs[1] + 290_000);
        assertLt(costs[0], costs[1] + 310_000, "a row's wallet costs 300,000 gas at most");
    }

    /// @dev Whatever gas it gets, no row of a wallet is called badly signed for want of it: the batch reverts, or the wallet was
    /// asked. Nor is a row lost: what did not pay can be sent again.
    function test_losesNoRow_atAnyGas() public {
        Terms memory thirsty = _otherTerms(1);
        thirsty.agent = address(new WalletThirsty());
        bytes32 other = _open(thirsty);
        Group[] memory groups = new Group[](2);
        groups[0] = Group(thirsty, _rows(_paymentTo(thirsty, alice, 5, 0), _paymentTo(thirsty, bob, 5, 1)));
        groups[1] = Group(terms, _rows(_paymentTo(terms, alice, 5, 0)));
        bytes[] memory signatures = new bytes[](3);
        (signatures[0], signatures[1]) = ("x", "x");
        bytes memory call = abi.encodeCall(IMandateEscrow.settle, (groups, new bytes32[][](0), signatures));

        uint256 snapshot = vm.snapshotState();
        uint256 whole = 0;
        for (uint256 gas_ = 40_000; gas_ < 1_200_000; gas_ += 4_219) {
            vm.recordLogs();
            vm.prank(submitter);
            (bool ok,) = address(escrow).call{gas: gas_}(call);
            uint256 paid = _paidWithoutBadSignatures(ok);
            assertEq(usdc.balanceOf(alice) + usdc.balanceOf(bob), 5 * paid);
            assertEq(uint256(escrow.mandateOf(id).remaining) + escrow.mandateOf(other).remaining, 2 * CAP - 5 * paid);
            if (paid == 3) ++whole;
            vm.prank(submitter);
            assertEq(escrow.settle(groups, new bytes32[][](0), signatures), 3 - paid);
            vm.revertToState(snapshot);
        }
        assertGt(whole, 10);
    }

    function _paidWithoutBadSignatures(bool ok) private returns (uint256 paid) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; ok && i < logs.length; ++i) {
            if (logs[i].topics[0] == IMandateEscrow.Spent.selector) ++paid;
            if (logs[i].topics[0] != IMandateEscrow.Skipped.selector) continue;
            (, Reason reason) = abi.decode(logs[i].data, (uint32, Reason));
            assertEq(reason, Reason.TransferFailed);
        }
    }

    /// @dev Whatever gas it gets, a batch that goes through has paid exactly what it says.
    function test_paysAsItSays_atAnyGas() public {
        Group[] memory groups = new Group[](1);
        groups[0] = Group(terms, _rows(_paymentTo(terms, alice, 5, 0), _paymentTo(terms, bob, 5, 1)));
        uint256 whole = 0;
        uint256 reverted = 0;
        uint256 snapshot = vm.snapshotState();
        for (uint256 gas_ = 20_000; gas_ < 220_000; gas_ += 997) {
            vm.prank(submitter);
            try escrow.settle{gas: gas_}(groups, new bytes32[][](0), new bytes[](0)) returns (uint256 paid) {
                assertEq(usdc.balanceOf(alice) + usdc.balanceOf(bob), 5 * paid);
                assertEq(escrow.mandateOf(id).remaining, CAP - 5 * paid);
                if (paid == 2) ++whole;
            } catch {
                assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
                ++reverted;
            }
            vm.revertToState(snapshot);
        }
        assertGt(whole, 10);
        assertGt(reverted, 10);
    }
}
