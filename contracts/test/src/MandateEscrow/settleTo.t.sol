// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Vm} from "forge-std/Vm.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Payment, Reason, Row, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {TokenReturningFalse} from "../../mocks/HostileTokens.sol";
import {Wallet, WalletBurningGas} from "../../mocks/Wallets.sol";

contract SettleToTest is EscrowTest {
    uint256 private constant MANDATES = 5;

    address private alice = makeAddr("alice");
    address private bob = makeAddr("bob");

    Terms[] private mandates;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 0; i < MANDATES; ++i) {
            mandates.push(_terms());
            mandates[i].intent = keccak256(abi.encode(i));
            _open(mandates[i]);
        }
    }

    /// @dev A payment of each mandate: 1 of the first, 2 of the second, and so on.
    function _all() private view returns (Row[] memory rows) {
        rows = new Row[](MANDATES);
        for (uint32 i = 0; i < MANDATES; ++i) {
            rows[i] = Row(mandates[i], _paymentTo(mandates[i], alice, i + 1, 3));
        }
    }

    function _settleTo(address to, Row[] memory rows) private returns (uint256) {
        vm.prank(submitter);
        return escrow.settleTo(to, rows, new bytes32[][](0), new bytes[](0));
    }

    function _remaining(uint256 mandate) private view returns (uint64) {
        return escrow.mandateOf(_idOf(mandates[mandate])).remaining;
    }

    // ---------------------------------------------------------------- paying

    function test_succeeds_withNothing() public {
        vm.recordLogs();
        assertEq(_settleTo(alice, new Row[](0)), 0);
        assertEq(vm.getRecordedLogs().length, 0);
    }

    function test_paysManyMandates_byOneTransfer() public {
        Row[] memory rows = _all();
        for (uint256 i = 0; i < MANDATES; ++i) {
            _expectSpent(_idOf(mandates[i]), rows[i].payment);
        }
        vm.expectCall(address(usdc), abi.encodeCall(usdc.transfer, (alice, 15)), 1);
        assertEq(_settleTo(alice, rows), MANDATES);

        assertEq(usdc.balanceOf(alice), 15);
        for (uint64 i = 0; i < MANDATES; ++i) {
            assertEq(escrow.mandateOf(_idOf(mandates[i])), Mandate(CAP - i - 1, 0, 8, 0, Status.Open));
        }
    }

    /// @dev Each row sees what the ones before it left, also of its own mandate.
    function test_succeeds_withTheSameMandateAgain() public {
        Terms memory terms = mandates[0];
        Row[] memory rows = new Row[](4);
        rows[0] = Row(terms, _paymentTo(terms, alice, CAP - 5, 0));
        rows[1] = Row(terms, _paymentTo(terms, alice, 6, 1));
        rows[2] = Row(terms, _paymentTo(terms, alice, 5, 0));
        rows[3] = Row(terms, _paymentTo(terms, alice, 5, 2));
        _expectSkipped(_idOf(terms), 1, Reason.InsufficientBudget);
        _expectSkipped(_idOf(terms), 0, Reason.NonceUsed);
        assertEq(_settleTo(alice, rows), 2);
        assertEq(usdc.balanceOf(alice), CAP);
        assertEq(escrow.mandateOf(_idOf(terms)), Mandate(0, 0, 5, 0, Status.Open));
    }

    /// @dev I8: a window is loaded and stored with its mandate, and none is left over for the next one.
    function test_countsEachMandatesWindow() public {
        Terms memory windowed = _terms();
        (windowed.windowCap, windowed.window, windowed.intent) = (10, 1 days, "windowed");
        _open(windowed);
        Row[] memory rows = new Row[](4);
        rows[0] = Row(windowed, _paymentTo(windowed, alice, 7, 0));
        rows[1] = Row(mandates[0], _paymentTo(mandates[0], alice, 50, 0));
        rows[2] = Row(windowed, _paymentTo(windowed, alice, 4, 1));
        rows[3] = Row(windowed, _paymentTo(windowed, alice, 3, 2));
        _expectSkipped(_idOf(windowed), 1, Reason.WindowExceeded);
        assertEq(_settleTo(alice, rows), 3);
        assertEq(_canSpend(windowed, _payment(windowed, 1, 3)), Reason.WindowExceeded);
    }

    /// @dev The sum of amounts of 64 bits does not wrap.
    function test_succeeds_atTypeMaxima() public {
        Row[] memory rows = new Row[](3);
        for (uint256 i = 0; i < 3; ++i) {
            Terms memory terms = _terms();
            (terms.cap, terms.intent) = (type(uint64).max, keccak256(abi.encode("max", i)));
            _open(terms);
            rows[i] = Row(terms, _paymentTo(terms, alice, type(uint64).max, type(uint32).max));
        }
        assertEq(_settleTo(alice, rows), 3);
        assertEq(usdc.balanceOf(alice), 3 * uint256(type(uint64).max));
    }

    /// @dev As by `settle`, row by row: the same events, state and money.
    function test_doesWhatSettleDoes(uint64 amount, uint32 nonce, uint256 spoiled) public {
        Row[] memory rows = _all();
        spoiled = bound(spoiled, 0, MANDATES); // the last of which is none
        for (uint256 i = 0; i < MANDATES; ++i) {
            rows[i].payment = _paymentTo(mandates[i], alice, uint64(bound(amount, 0, CAP + 1)), nonce);
            if (i == spoiled) rows[i].payment.ref = "another";
        }
        uint256 snapshot = vm.snapshotState();
        uint256 paid = 0;
        vm.recordLogs();
        for (uint256 i = 0; i < MANDATES; ++i) {
            paid += _settle(mandates[i], _rows(rows[i].payment));
        }
        bytes32 outcome = _outcome();
        vm.revertToState(snapshot);
        vm.recordLogs();
        assertEq(_settleTo(alice, rows), paid);
        assertEq(_outcome(), outcome);
    }

    function _outcome() private returns (bytes32 outcome) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(escrow)) {
                outcome = keccak256(abi.encode(outcome, logs[i].topics, logs[i].data));
            }
        }
        for (uint256 i = 0; i < MANDATES; ++i) {
            outcome = keccak256(abi.encode(outcome, escrow.mandateOf(_idOf(mandates[i]))));
        }
        outcome = keccak256(abi.encode(outcome, usdc.balanceOf(alice)));
    }

    // ---------------------------------------------------------------- skipping rows

    /// @dev I10: whatever is wrong with a row, and wherever it is, the others pay.
    function test_skipsABadRow(uint256 place) public {
        place = bound(place, 0, MANDATES - 1);
        for (uint256 fault = 0; fault < 7; ++fault) {
            uint256 snapshot = vm.snapshotState();
            Row[] memory rows = _all();
            Reason reason = _spoil(rows[place], fault);
            _expectSkipped(_idOf(rows[place].terms), rows[place].payment.nonce, reason);
            assertEq(_settleTo(alice, rows), MANDATES - 1);
            assertEq(usdc.balanceOf(alice), 15 - place - 1);
            assertEq(usdc.balanceOf(address(escrow)), _escrowed());
            vm.revertToState(snapshot);
        }
    }

    /// @dev What the mandates have, and the one of another guardian, if there is one.
    function _escrowed() private view returns (uint256 sum) {
        for (uint256 i = 0; i < MANDATES; ++i) {
            sum += _remaining(i);
        }
        Terms memory foreign = mandates[0];
        (foreign.guardian, foreign.intent) = (stranger, "another guardian's");
        sum += escrow.mandateOf(_idOf(foreign)).remaining;
    }

    function _spoil(Row memory row, uint256 fault) private returns (Reason) {
        if (fault == 0) {
            row.payment.ref = "another";
            return Reason.BadSignature;
        }
        if (fault == 1) {
            row.payment = _paymentTo(row.terms, alice, 0, 3);
            return Reason.AmountZero;
        }
        if (fault == 2) {
            row.payment = _paymentTo(row.terms, alice, CAP + 1, 3);
            return Reason.InsufficientBudget;
        }
        if (fault == 3) {
            row.payment = _paymentTo(row.terms, bob, 1, 3);
            return Reason.BadPayee;
        }
        if (fault == 4) {
            row.terms.intent = "never opened";
            return Reason.UnknownMandate;
        }
        if (fault == 5) {
            Terms memory foreign = row.terms;
            (foreign.guardian, foreign.intent) = (stranger, "another guardian's");
            _fund(operator, CAP);
            vm.prank(operator);
            escrow.open(foreign);
            return Reason.NotSubmitter;
        }
        _spend(row.terms, _paymentTo(row.terms, bob, 1, 3));
        vm.prank(operator);
        escrow.revoke(row.terms);
        return Reason.Ended;
    }

    /// @dev A payee that no row may have is nobody's, and the token is not called.
    function test_paysNobody_whoCannotBePaid() public {
        address[3] memory bad = [address(0), address(escrow), address(usdc)];
        for (uint256 i = 0; i < bad.length; ++i) {
            Row[] memory rows = new Row[](1);
            rows[0] = Row(mandates[0], _paymentTo(mandates[0], bad[i], 5, 0));
            _expectSkipped(_idOf(mandates[0]), 0, Reason.BadPayee);
            assertEq(_settleTo(bad[i], rows), 0);
        }
        assertEq(_remaining(0), CAP);
    }

    function test_skipsEverything_fromAStranger() public {
        Row[] memory rows = _all();
        vm.prank(stranger);
        assertEq(escrow.settleTo(alice, rows, new bytes32[][](0), new bytes[](0)), 0);
        assertEq(usdc.balanceOf(alice), 0);
    }

    /// @dev A wallet has what a row of `settle` gives it, and burns no more of the others' gas.
    function test_boundsAWalletsGas() public {
        Row[] memory rows = _all();
        Terms memory burning = _terms();
        burning.agent = address(new WalletBurningGas());
        _open(burning);
        rows[2] = Row(burning, _paymentTo(burning, alice, 9, 0));
        bytes[] memory signatures = new bytes[](MANDATES);
        signatures[2] = "x";
        bytes memory call = abi.encodeCall(IMandateEscrow.settleTo, (alice, rows, new bytes32[][](0), signatures));
        vm.prank(submitter);
        (bool ok, bytes memory answer) = address(escrow).call{gas: 1_500_000}(call);
        assertTrue(ok);
        assertEq(abi.decode(answer, (uint256)), MANDATES - 1);
    }

    // ---------------------------------------------------------------- a token that refuses

    /// @dev I9, I10: none of the rows could have been paid, and none is used.
    function test_reverts_whenTheTokenRefusesThePayee() public {
        Row[] memory rows = _all();
        usdc.blacklist(alice);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, alice, 15));
        _settleTo(alice, rows);
        for (uint256 i = 0; i < MANDATES; ++i) {
            assertEq(escrow.mandateOf(_idOf(mandates[i])), Mandate(CAP, 0, 0, 0, Status.Open));
        }
        usdc.unBlacklist(alice);
        assertEq(_settleTo(alice, rows), MANDATES);
    }

    function test_reverts_whenTheTokenReturnsFalse() public {
        _upgradeToken(address(new TokenReturningFalse()));
        Row[] memory rows = _all();
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.TransferFailed.selector, alice, 15));
        _settleTo(alice, rows);
    }

    // ---------------------------------------------------------------- proofs and wallets

    function test_takesProofsAndSignatures_rowByRow() public {
        Row[] memory rows = new Row[](3);
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(alice))));
        bytes32 sibling = keccak256("sibling");
        Terms memory listed = _terms();
        listed.payees = leaf < sibling ? keccak256(abi.encode(leaf, sibling)) : keccak256(abi.encode(sibling, leaf));
        Terms memory walled = _terms();
        walled.agent = address(new Wallet(agent));
        Terms[3] memory all = [listed, walled, mandates[0]];
        bytes32[][] memory proofs = new bytes32[][](3);
        bytes[] memory signatures = new bytes[](3);
        for (uint256 i = 0; i < 3; ++i) {
            if (i < 2) _open(all[i]);
            rows[i] = Row(all[i], _paymentTo(all[i], alice, 5, 0));
        }
        proofs[0] = new bytes32[](1);
        proofs[0][0] = sibling;
        bytes32 digest = _spendDigest(_idOf(walled), rows[1].payment);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(agentKey, digest);
        signatures[1] = abi.encodePacked(r, s, v);
        (rows[1].payment.r, rows[1].payment.vs) = (0, 0);

        vm.prank(submitter);
        assertEq(escrow.settleTo(alice, rows, proofs, signatures), 3);
        assertEq(usdc.balanceOf(alice), 15);
    }

    function test_reverts_whenASideArrayHasAnotherLength(uint256 proofs, uint256 signatures) public {
        (proofs, signatures) = (bound(proofs, 0, 9), bound(signatures, 0, 9));
        bool bad = (proofs != 0 && proofs != MANDATES) || (signatures != 0 && signatures != MANDATES);
        Row[] memory rows = _all();
        if (bad) {
            vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.BadSideArrays.selector, MANDATES, proofs, signatures));
        }
        vm.prank(submitter);
        escrow.settleTo(alice, rows, new bytes32[][](proofs), new bytes[](signatures));
    }
}
