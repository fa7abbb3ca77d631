// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Group, Hold, Payment, Reason, Row, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {
    Wallet,
    WalletAcceptingAll,
    WalletBurningGas,
    WalletExpensive,
    WalletRefusing,
    WalletReturningABomb,
    WalletReturningDirt,
    WalletReturningTooLittle,
    WalletReverting,
    WalletSilent,
    WalletTalkingOn,
    WalletThirsty,
    WalletWriting
} from "../../mocks/Wallets.sol";

/// @notice Money moves only as the agent signed it.
contract SignaturesTest is EscrowTest {
    uint256 private constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    /// @dev More than any payment takes; a wallet that burns all of it does so at once.
    uint256 private constant GAS = 5_000_000;

    bytes32[] private noProof;

    // ---------------------------------------------------------------- keys

    /// @dev I7: a stolen submitter key changes nothing that was signed.
    function test_reverts_whenAnySignedFieldIsChanged(uint256 field, uint256 value) public {
        Terms memory terms = _terms();
        _open(terms);
        Payment memory payment = _payment(terms, 5, 3);
        bytes32 signed = keccak256(abi.encode(payment));

        field = bound(field, 0, 6);
        if (field == 0) payment.payee = address(uint160(bound(value, 1, type(uint160).max)));
        else if (field == 1) payment.amount = uint64(bound(value, 1, CAP));
        else if (field == 2) payment.nonce = uint32(value);
        else if (field == 3) payment.deadline = uint40(bound(value, NOW + 1, type(uint40).max));
        else if (field == 4) payment.ref = bytes32(value);
        else if (field == 5) payment.r = bytes32(value);
        else payment.vs = bytes32(value);
        vm.assume(keccak256(abi.encode(payment)) != signed);
        vm.assume(payment.payee != address(escrow) && payment.payee != address(usdc));

        _assertRefused(terms, payment, Reason.BadSignature);
    }

    function test_reverts_whenSignedByAnother(uint256 key) public {
        key = bound(key, 1, ORDER - 1);
        vm.assume(key != agentKey);
        Terms memory terms = _terms();
        _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        (payment.r, payment.vs) = vm.signCompact(key, _spendDigest(_idOf(terms), payment));
        _assertRefused(terms, payment, Reason.BadSignature);
    }

    /// @dev A hold with the very same fields is another message.
    function test_reverts_withTheSignatureOfAHold() public {
        Terms memory terms = _terms();
        _open(terms);
        Payment memory payment = _holdOf(terms, 5, 0).payment;
        _assertRefused(terms, payment, Reason.BadSignature);
        _sign(terms, payment);
        _spend(terms, payment);
    }

    function test_reverts_whenSignedForAnotherMandate() public {
        Terms memory terms = _terms();
        Terms memory other = _terms();
        other.intent = keccak256("other");
        _open(terms);
        _open(other);
        _assertRefused(terms, _payment(other, 5, 0), Reason.BadSignature);
    }

    function test_reverts_whenSignedForAnotherEscrow() public {
        Terms memory terms = _terms();
        _open(terms);
        IMandateEscrow first = escrow;
        escrow = IMandateEscrow(deployCode("MandateEscrow.sol:MandateEscrow", abi.encode(usdc)));
        Payment memory payment = _payment(terms, 5, 0);
        escrow = first;
        _assertRefused(terms, payment, Reason.BadSignature);
    }

    /// @dev After a fork the old signature is worthless, a new one works, and the money is still in reach.
    function test_reverts_whenSignedForAnotherChain() public {
        Terms memory terms = _terms();
        bytes32 id = _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        bytes32 domain = escrow.domainSeparator();

        vm.chainId(8453);
        assertNotEq(escrow.domainSeparator(), domain);
        assertEq(escrow.idOf(terms), id);
        _assertRefused(terms, payment, Reason.BadSignature);

        (payment.r, payment.vs) = vm.signCompact(agentKey, _spendDigest(id, payment));
        _spend(terms, payment);
        vm.prank(operator);
        escrow.revoke(terms);
        assertEq(usdc.balanceOf(operator), CAP - 5);
    }

    /// @dev EIP-2. The compact form has no room for most high values: they lose their top bit to the parity.
    function test_reverts_whenSIsHigh() public {
        Terms memory terms = _terms();
        _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        uint256 vs = uint256(payment.vs);
        uint256 s = vs & (1 << 255) - 1;
        uint256 parity = vs >> 255;

        payment.vs = bytes32((ORDER - s) & (1 << 255) - 1 | (1 - parity) << 255);
        _assertRefused(terms, payment, Reason.BadSignature);
        payment.vs = bytes32(ORDER / 2 + 1);
        _assertRefused(terms, payment, Reason.BadSignature);
    }

    function test_reverts_whenTheSignatureIsZero() public {
        Terms memory terms = _terms();
        _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        (payment.r, payment.vs) = (0, 0);
        _assertRefused(terms, payment, Reason.BadSignature);
    }

    // ---------------------------------------------------------------- wallets

    /// @dev Opens a mandate whose agent is the wallet, and asks about a payment that carries only a wallet signature.
    function _ask(address wallet, bytes memory signature) private returns (Reason) {
        Terms memory terms = _terms();
        terms.agent = wallet;
        terms.intent = keccak256(abi.encode(wallet));
        _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        payment.r = bytes32(uint256(payment.r) ^ 1);

        Reason reason = escrow.canSpend{gas: GAS}(terms, payment, noProof, signature, submitter);
        if (reason != Reason.None) {
            vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, reason));
        }
        vm.prank(submitter);
        escrow.spend{gas: GAS}(terms, payment, noProof, signature);
        return reason;
    }

    function test_succeeds_asAWalletSays() public {
        Terms memory terms = _terms();
        terms.agent = address(new Wallet(agent));
        bytes32 id = _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(agentKey, _spendDigest(id, payment));
        bytes memory signature = abi.encodePacked(r, s, v);
        (payment.r, payment.vs) = (0, 0);

        // The compact signature stands for a key, and the wallet has none.
        _assertRefused(terms, _payment(terms, 5, 0), Reason.BadSignature);

        vm.prank(submitter);
        escrow.spend(terms, payment, noProof, signature);
        assertEq(usdc.balanceOf(payee), 5);
    }

    function test_succeeds_whenTheWalletAccepts() public {
        assertEq(_ask(address(new WalletAcceptingAll()), "x"), Reason.None);
        assertEq(_ask(address(new WalletTalkingOn()), "x"), Reason.None);
    }

    function test_reverts_whenTheWalletDoesNotAccept() public {
        assertEq(_ask(address(new Wallet(agent)), new bytes(65)), Reason.BadSignature);
        assertEq(_ask(address(new WalletRefusing()), "x"), Reason.BadSignature);
        assertEq(_ask(address(new WalletReturningDirt()), "x"), Reason.BadSignature);
        assertEq(_ask(address(new WalletReturningTooLittle()), "x"), Reason.BadSignature);
        assertEq(_ask(address(new WalletReverting()), "x"), Reason.BadSignature);
        assertEq(_ask(address(new WalletSilent()), "x"), Reason.BadSignature);
        assertEq(_ask(address(new WalletWriting()), "x"), Reason.BadSignature);
    }

    /// @dev What counts is what the wallet says when the payment is made, not what it said to a view before.
    function test_asksTheWalletEachTime() public {
        Terms memory terms = _terms();
        terms.agent = address(new WalletAcceptingAll());
        bytes32 id = _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        assertEq(escrow.canSpend(terms, payment, noProof, "x", submitter), Reason.None);

        vm.etch(terms.agent, address(new WalletRefusing()).code);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.BadSignature));
        vm.prank(submitter);
        escrow.spend(terms, payment, noProof, "x");
        assertEq(escrow.mandateOf(id).nonceBits, 0);
    }

    /// @dev The escrow signs nothing for anybody, whatever it is asked to confirm.
    function test_isNobodysWallet(bytes32 digest, bytes memory signature) public view {
        (bool ok,) = address(escrow).staticcall(abi.encodeCall(IERC1271.isValidSignature, (digest, signature)));
        assertFalse(ok);
    }

    function test_doesNotAskTheWallet_withoutASignature() public {
        assertEq(_ask(address(new WalletAcceptingAll()), ""), Reason.BadSignature);

        // Nor do the forms that have no room for one.
        Terms memory terms = _terms();
        terms.agent = address(new WalletAcceptingAll());
        bytes32 id = _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        _assertRefused(terms, payment, Reason.BadSignature);
        _assertRefused(terms, _holdOf(terms, 5, 0), Reason.BadSignature);
        _expectSkipped(id, 0, Reason.BadSignature);
        assertEq(_settle(terms, _rows(payment)), 0);

        Row[] memory rows = new Row[](1);
        rows[0] = Row(terms, payment);
        _expectSkipped(id, 0, Reason.BadSignature);
        vm.prank(submitter);
        assertEq(escrow.settleTo(payment.payee, rows, new bytes32[][](0), new bytes[](0)), 0);
    }

    /// @dev An account without code answers any call with success. It is not asked, so gas does not matter.
    function test_reverts_whenTheAgentHasNoCode() public {
        assertEq(_ask(stranger, "x"), Reason.BadSignature);

        Terms memory terms = _terms();
        _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        payment.ref = 0;
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.BadSignature));
        vm.prank(submitter);
        escrow.spend{gas: 100_000}(terms, payment, noProof, "x");
    }

    /// @dev Precompile 4 answers with what it was asked.
    function test_reverts_whenTheAgentIsAPrecompile() public {
        assertEq(_ask(address(4), "x"), Reason.BadSignature);
    }

    /// @dev A payment or hold on its own may take what its sender gives it: no wallet is too expensive for ever, whatever
    /// the chain comes to charge. In a batch, where others would pay, it is.
    function test_succeeds_forAWalletThatTakesMoreThanARowGets() public {
        Terms memory terms = _terms();
        terms.agent = address(new WalletExpensive());
        bytes32 id = _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        vm.prank(submitter);
        escrow.spend(terms, payment, noProof, "x");
        Hold memory hold = _holdOf(terms, 5, 1);
        vm.prank(submitter);
        escrow.hold(terms, hold, noProof, "x");
        assertEq(escrow.mandateOf(id).nonceBits, 3);

        payment.nonce = 2;
        assertEq(escrow.canSpend(terms, payment, noProof, "x", submitter), Reason.None);
        Group[] memory groups = new Group[](1);
        groups[0] = Group(terms, _rows(payment));
        bytes[] memory signatures = new bytes[](1);
        signatures[0] = "x";
        _expectSkipped(id, 2, Reason.BadSignature);
        vm.prank(submitter);
        escrow.settle(groups, new bytes32[][](0), signatures);

        // Too little gas for it makes it look as if it refused; nothing else comes of that.
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.BadSignature));
        vm.prank(submitter);
        escrow.spend{gas: 600_000}(terms, payment, noProof, "x");
        assertEq(escrow.mandateOf(id).nonceBits, 3);
    }

    function test_copiesNothingOfWhatAWalletReturns() public {
        // It may burn all gas that its payment has, and no more.
        assertEq(_ask(address(new WalletBurningGas()), "x"), Reason.BadSignature);

        // Asked twice, once by the view: all that it returns comes out of what it may burn, and none is copied.
        (address brief, address bomb) = (address(new WalletAcceptingAll()), address(new WalletReturningABomb()));
        uint256 before = gasleft();
        assertEq(_ask(brief, "x"), Reason.None);
        uint256 cost = before - gasleft();
        before = gasleft();
        assertEq(_ask(bomb, "x"), Reason.None);
        assertGt(before - gasleft(), cost + 150_000);
        assertLt(before - gasleft(), cost + 200_000, "a bomb is not copied");
    }

    /// @dev The root key of an EIP-7702 account stays valid, and so does what its code accepts.
    function test_succeeds_forAnEIP7702Agent() public {
        vm.signAndAttachDelegation(address(new WalletAcceptingAll()), agentKey);
        Terms memory terms = _terms();
        _open(terms);
        assertEq(agent.code.length, 23);

        _spend(terms, _payment(terms, 5, 0));
        Payment memory payment = _payment(terms, 5, 1);
        (payment.r, payment.vs) = (0, 0);
        vm.prank(submitter);
        escrow.spend(terms, payment, noProof, "x");
        assertEq(usdc.balanceOf(payee), 10);
    }

    /// @dev At any gas the answer is the wallet's own, or the whole call reverts: starving it says nothing.
    function test_neverStarvesAWallet() public {
        Terms memory terms = _terms();
        terms.agent = address(new WalletThirsty());
        _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        uint256 accepted = 0;
        uint256 tooLow = 0;
        for (uint256 gas_ = 5_000; gas_ < 500_000; gas_ += 797) {
            try escrow.canSpend{gas: gas_}(terms, payment, noProof, "x", submitter) returns (Reason reason) {
                assertEq(reason, Reason.None);
                ++accepted;
            } catch (bytes memory answer) {
                if (bytes4(answer) == IMandateEscrow.GasTooLow.selector) ++tooLow;
                else assertEq(answer.length, 0);
            }
        }
        assertGt(accepted, 10);
        assertGt(tooLow, 10);
    }

    function test_reverts_withGasTooLow() public {
        Terms memory terms = _terms();
        terms.agent = address(new WalletThirsty());
        _open(terms);
        Payment memory payment = _payment(terms, 5, 0);

        vm.expectPartialRevert(IMandateEscrow.GasTooLow.selector);
        vm.prank(submitter);
        escrow.spend{gas: 100_000}(terms, payment, noProof, "x");
    }

    /// @dev What a call can give on is 63 of 64 parts of what is left. From 310,000 on the wallet is asked.
    function test_asksTheWallet_fromExactlyEnoughGas() public {
        Terms memory terms = _terms();
        terms.agent = address(new WalletThirsty());
        _open(terms);
        Payment memory payment = _payment(terms, 5, 0);
        // What is cold costs more: the first call pays for it.
        escrow.canSpend(terms, payment, noProof, "x", submitter);

        uint256 least = 70_000;
        uint256 available = _availableAt(least, terms, payment);
        uint256 step = 32_000;
        assertApproxEqAbs(_availableAt(least + step, terms, payment), available + step * 63 / 64, 1);

        uint256 gas_ = least + (309_900 - available) * 64 / 63;
        for (uint256 next = available; next != 0; ++gas_) {
            available = next;
            next = _availableAt(gas_, terms, payment);
        }
        assertEq(available, 309_999);
    }

    /// @dev What is said to be available at so much gas; zero if the wallet is asked.
    function _availableAt(uint256 gas_, Terms memory terms, Payment memory payment) private view returns (uint256) {
        try escrow.canSpend{gas: gas_}(terms, payment, noProof, "x", submitter) returns (Reason reason) {
            assertEq(reason, Reason.None);
            return 0;
        } catch (bytes memory answer) {
            assertEq(bytes4(answer), IMandateEscrow.GasTooLow.selector);
            (uint256 available, uint256 required) = abi.decode(this.withoutSelector(answer), (uint256, uint256));
            assertEq(required, 310_000);
            return available;
        }
    }

    function withoutSelector(bytes calldata answer) external pure returns (bytes calldata) {
        return answer[4:];
    }
}
