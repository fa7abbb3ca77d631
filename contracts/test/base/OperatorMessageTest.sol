// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Terms} from "../../src/interfaces/Types.sol";
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
} from "../mocks/Wallets.sol";
import {OperatorTest} from "./OperatorTest.sol";

/// @notice What holds of every message that an operator signs and anyone may send.
abstract contract OperatorMessageTest is OperatorTest {
    /// @dev More than any message takes; a wallet that burns all of it does so at once.
    uint256 private constant GAS = 5_000_000;

    /// @dev Makes everything so that the message about these terms lacks nothing but its signature.
    function _prepare(Terms memory terms) internal virtual;

    /// @dev What the operator signs.
    function _message(Terms memory terms) internal view virtual returns (bytes32 digest);

    /// @dev The call that carries it.
    function _carry(Terms memory terms, bytes memory signature) internal view virtual returns (bytes memory call);

    function _send(Terms memory terms, bytes memory signature) internal {
        (bool ok, bytes memory answer) = _try(terms, signature, GAS);
        if (ok) return;
        assembly ("memory-safe") {
            revert(add(answer, 0x20), mload(answer))
        }
    }

    function _try(Terms memory terms, bytes memory signature, uint256 gas_)
        internal
        returns (bool ok, bytes memory answer)
    {
        bytes memory call = _carry(terms, signature);
        vm.prank(stranger);
        (ok, answer) = address(escrow).call{gas: gas_}(call);
    }

    function _assertReverts(Terms memory terms, bytes memory signature, bytes memory refusal) internal {
        (bool ok, bytes memory answer) = _try(terms, signature, GAS);
        assertFalse(ok);
        assertEq(answer, refusal);
    }

    function _assertNotSigned(Terms memory terms, bytes memory signature) internal {
        bytes4 selector = IMandateEscrow.NotSignedByOperator.selector;
        _assertReverts(terms, signature, abi.encodeWithSelector(selector, terms.operator));
    }

    function _termsOf(address wallet) private returns (Terms memory terms) {
        terms = _terms();
        terms.operator = wallet;
        _prepare(terms);
    }

    // ---------------------------------------------------------------- keys

    function test_message_succeeds_fromAStranger() public {
        Terms memory terms = _terms();
        _prepare(terms);
        _send(terms, _sign(operatorKey, _message(terms)));
    }

    function test_message_reverts_whenSignedByAnother(uint256 key) public {
        key = bound(key, 1, ORDER - 1);
        vm.assume(key != operatorKey);
        Terms memory terms = _terms();
        _prepare(terms);
        _assertNotSigned(terms, _sign(key, _message(terms)));
        _assertNotSigned(terms, _sign(agentKey, _message(terms)));
    }

    function test_message_reverts_whenABitIsFlipped(uint256 bit) public {
        Terms memory terms = _terms();
        _prepare(terms);
        bytes memory signature = _sign(operatorKey, _message(terms));
        bit = bound(bit, 0, 8 * 65 - 1);
        signature[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        _assertNotSigned(terms, signature);
    }

    /// @dev EIP-2: the twin that every signature has is refused, and so is every form but the one of 65 bytes.
    function test_message_reverts_inAnyOtherForm() public {
        Terms memory terms = _terms();
        _prepare(terms);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(operatorKey, _message(terms));
        (, bytes32 vs) = vm.signCompact(operatorKey, _message(terms));
        bytes32 high = bytes32(ORDER - uint256(s));

        _assertNotSigned(terms, abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27)));
        _assertNotSigned(terms, abi.encodePacked(r, s, v - 27));
        _assertNotSigned(terms, abi.encodePacked(r, s));
        _assertNotSigned(terms, abi.encodePacked(r, vs));
        _assertNotSigned(terms, abi.encodePacked(r, s, v, uint8(0)));
        _assertNotSigned(terms, abi.encodePacked(r, bytes31(s), v));
        _assertNotSigned(terms, new bytes(65));
        _assertNotSigned(terms, "");
        _send(terms, abi.encodePacked(r, s, v));
    }

    function test_message_reverts_forAnotherMandate() public {
        (Terms memory terms, Terms memory other) = (_terms(), _terms());
        other.intent = "other";
        _prepare(terms);
        _prepare(other);
        _assertNotSigned(terms, _sign(operatorKey, _message(other)));
    }

    function test_message_reverts_forAnotherEscrow() public {
        Terms memory terms = _terms();
        _prepare(terms);
        IMandateEscrow first = escrow;
        escrow = IMandateEscrow(deployCode("MandateEscrow.sol:MandateEscrow", abi.encode(usdc)));
        bytes memory signature = _sign(operatorKey, _message(terms));
        escrow = first;
        _assertNotSigned(terms, signature);
    }

    /// @dev After a fork the old message is worthless here, and a new one does what it says, under the same id.
    function test_message_reverts_forAnotherChain() public {
        Terms memory terms = _terms();
        bytes32 id = _idOf(terms);
        _prepare(terms);
        bytes memory signature = _sign(operatorKey, _message(terms));

        vm.chainId(8453);
        assertEq(escrow.idOf(terms), id);
        _assertNotSigned(terms, signature);
        uint256 snapshot = vm.snapshotState();
        _send(terms, _sign(operatorKey, _message(terms)));
        vm.revertToState(snapshot);

        vm.chainId(31337);
        _send(terms, signature);
    }

    // ---------------------------------------------------------------- wallets

    function test_message_succeeds_asAWalletSays() public {
        Terms memory terms = _termsOf(address(new Wallet(operator)));
        _assertNotSigned(terms, _sign(agentKey, _message(terms)));
        _send(terms, _sign(operatorKey, _message(terms)));

        _send(_termsOf(address(new WalletAcceptingAll())), "x");
        _send(_termsOf(address(new WalletTalkingOn())), "x");
        _send(_termsOf(address(new WalletReturningABomb())), "x");
        _send(_termsOf(address(new WalletExpensive())), "x");
    }

    function test_message_reverts_whenTheWalletDoesNotAccept() public {
        _assertNotSigned(_termsOf(address(new WalletRefusing())), "x");
        _assertNotSigned(_termsOf(address(new WalletReturningDirt())), "x");
        _assertNotSigned(_termsOf(address(new WalletReturningTooLittle())), "x");
        _assertNotSigned(_termsOf(address(new WalletReverting())), "x");
        _assertNotSigned(_termsOf(address(new WalletSilent())), "x");
        _assertNotSigned(_termsOf(address(new WalletWriting())), "x");
        _assertNotSigned(_termsOf(address(new WalletBurningGas())), "x");
        _assertNotSigned(_termsOf(address(new WalletAcceptingAll())), "");
    }

    /// @dev An account without code answers any call with success, and a precompile with what it was asked.
    function test_message_reverts_whenTheOperatorHasNoCode() public {
        _assertNotSigned(_termsOf(makeAddr("nobody")), "x");
        _assertNotSigned(_termsOf(address(4)), "x");
    }

    /// @dev The root key of an EIP-7702 account stays valid, which its code would refuse; and so does what its code accepts,
    /// here the agent's key.
    function test_message_succeeds_forAnEIP7702Operator() public {
        vm.signAndAttachDelegation(address(new Wallet(agent)), operatorKey);
        Terms memory terms = _termsOf(operator);
        assertEq(operator.code.length, 23);
        uint256 snapshot = vm.snapshotState();
        _send(terms, _sign(operatorKey, _message(terms)));
        vm.revertToState(snapshot);
        _send(terms, _sign(agentKey, _message(terms)));
        vm.revertToState(snapshot);
        (, uint256 strangerKey) = makeAddrAndKey("stranger");
        _assertNotSigned(terms, _sign(strangerKey, _message(terms)));
    }

    // ---------------------------------------------------------------- gas

    /// @dev No wallet is too expensive for ever, whatever the chain comes to charge: who carries the message pays.
    function test_message_givesAWalletAllGas() public {
        Terms memory terms = _termsOf(address(new WalletExpensive()));
        Mandate memory before = escrow.mandateOf(_idOf(terms));
        (bool ok, bytes memory answer) = _try(terms, "x", 600_000);
        assertFalse(ok);
        assertEq(bytes4(answer), IMandateEscrow.NotSignedByOperator.selector);
        assertEq(escrow.mandateOf(_idOf(terms)), before);
        (ok,) = _try(terms, "x", 2_000_000);
        assertTrue(ok);
    }

    /// @dev At any gas the wallet's own answer counts, or the whole call reverts: starving it says nothing.
    function test_message_neverStarvesAWallet() public {
        Terms memory terms = _termsOf(address(new WalletThirsty()));
        Mandate memory before = escrow.mandateOf(_idOf(terms));
        uint256 balance = usdc.balanceOf(address(escrow));
        uint256 succeeded = 0;
        uint256 tooLow = 0;
        uint256 snapshot = vm.snapshotState();
        for (uint256 gas_ = 22_000; gas_ < 650_000; gas_ += 2_777) {
            (bool ok, bytes memory answer) = _try(terms, "x", gas_);
            if (ok) {
                ++succeeded;
            } else {
                assertNotEq(bytes4(answer), IMandateEscrow.NotSignedByOperator.selector);
                if (bytes4(answer) == IMandateEscrow.GasTooLow.selector) ++tooLow;
                assertEq(escrow.mandateOf(_idOf(terms)), before);
                assertEq(usdc.balanceOf(address(escrow)), balance);
            }
            vm.revertToState(snapshot);
        }
        assertGt(succeeded, 10);
        assertGt(tooLow, 10);
    }
}
