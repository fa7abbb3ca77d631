// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {IMandateEscrow} from "../../src/interfaces/IMandateEscrow.sol";
import {HoldState, Mandate, Status, Terms} from "../../src/interfaces/Types.sol";
import {svm} from "./Svm.sol";
import {SymbolicToken} from "./SymbolicToken.sol";

/// @notice One call in an arbitrary state. A proof takes any state in which the invariants hold, calls a verb with any
/// arguments, from anyone, at any time, with any signature, with a token that may refuse, and shows that they still hold:
///
/// - I2: what a mandate has, remaining and held, changes by exactly what the token moved, and is never above the cap.
/// - I3: a used nonce stays used; a nonce that pays or holds was not used before, and is afterwards.
/// - I4: a mandate's `held` changes by exactly what its one touched hold does, no other hold changes, and no used nonce's
///   hold grows. So an ended hold stays ended, as its nonce stays used.
///
/// No other mandate changes, so what holds for each call holds for any sequence of calls. What is said of signatures, of
/// payees' proofs and of the window is arbitrary: `scripts/halmos` puts the libraries in `libraries` in the place of
/// the escrow's.
abstract contract Step is Test {
    /// @dev What is arbitrary about every call. `nonce` is the one that is watched, or that the verb names; `other` are
    /// another nonce and another mandate.
    struct Any {
        Terms terms;
        address caller;
        uint40 time;
        uint32 nonce;
        uint32 otherNonce;
        bytes32 otherMandate;
        uint256 refusals;
    }

    struct State {
        Mandate mandate;
        HoldState hold;
        HoldState otherHold;
        Mandate otherMandate;
        HoldState otherMandatesHold;
    }

    SymbolicToken internal token;
    IMandateEscrow internal escrow;

    function setUp() public {
        token = new SymbolicToken();
        bytes memory code = abi.encodePacked(vm.getCode("MandateEscrow.sol:MandateEscrow"), abi.encode(token));
        address deployed;
        assembly ("memory-safe") {
            deployed := create(0, add(code, 0x20), mload(code))
        }
        escrow = IMandateEscrow(deployed);
        svm.enableSymbolicStorage(deployed);
    }

    /// @dev An arbitrary state in which the invariants hold; the next call is `any.caller`'s.
    function _begin(Any calldata any) internal returns (State memory state) {
        vm.warp(any.time);
        token.setUp(address(escrow), any.refusals);
        bytes32 id = escrow.idOf(any.terms);
        vm.assume(any.otherMandate != id);
        vm.assume(any.otherNonce != any.nonce);
        // The escrow sends no call but to the token and to wallets, and signs nothing, so it is nobody's operator. If it
        // were, what a refund passes on to the operator would come into the escrow and belong to nobody.
        vm.assume(any.caller != address(escrow) && any.terms.operator != address(escrow));

        state = _state(any, id);
        vm.assume(_sound(any, state));
        vm.prank(any.caller);
    }

    /// @dev The invariants hold again. `holds` says whether the verb may change the hold of `any.nonce`, and with it `held`.
    function _end(Any calldata any, State memory before, bool holds) internal view returns (State memory state) {
        state = _state(any, escrow.idOf(any.terms));
        assertTrue(_sound(any, state), "sound");
        assertEq(_has(state.mandate) + token.out(), _has(before.mandate) + token.into(), "I2");
        assertTrue(_implies(_used(before.mandate, any.nonce), _used(state.mandate, any.nonce)), "I3");
        assertTrue(_implies(_used(before.mandate, any.nonce), state.hold.left <= before.hold.left), "I4: grown");
        assertGe(uint8(state.mandate.status), uint8(before.mandate.status), "ended stays ended");
        if (holds) {
            assertEq(
                uint256(state.mandate.held) + before.hold.left,
                uint256(before.mandate.held) + state.hold.left,
                "I4: held"
            );
        } else {
            assertEq(_word(state.hold), _word(before.hold), "I4: hold");
        }
        assertEq(_word(state.otherHold), _word(before.otherHold), "I4: other hold");
        assertEq(_word(state.otherMandate), _word(before.otherMandate), "other mandate");
        assertEq(_word(state.otherMandatesHold), _word(before.otherMandatesHold), "other mandate's hold");
    }

    /// @dev What the invariants say of one state. Until captureEnd, `held` covers every hold; from then on nothing can be
    /// done with one.
    function _sound(Any calldata any, State memory state) private pure returns (bool sound) {
        Mandate memory mandate = state.mandate;
        sound = _has(mandate) <= any.terms.cap;
        sound = _and(sound, _implies(mandate.status == Status.None, _word(mandate) == 0));
        sound = _and(
            sound,
            _implies(any.time < any.terms.captureEnd, uint256(state.hold.left) + state.otherHold.left <= mandate.held)
        );
        sound = _and(sound, _soundHold(any.terms, mandate, any.nonce, state.hold));
        sound = _and(sound, _soundHold(any.terms, mandate, any.otherNonce, state.otherHold));
    }

    function _soundHold(Terms calldata terms, Mandate memory mandate, uint32 nonce, HoldState memory hold)
        private
        pure
        returns (bool)
    {
        return _implies(hold.left != 0, _and(_used(mandate, nonce), hold.captureBy <= terms.captureEnd));
    }

    function _used(Mandate memory mandate, uint32 nonce) internal pure returns (bool used) {
        uint256 base = mandate.nonceBase;
        uint256 bits = mandate.nonceBits;
        // The shift is wider than a word if the nonce is below the base, and then leaves nothing.
        assembly ("memory-safe") {
            used := or(lt(nonce, base), and(shr(sub(nonce, base), bits), 1))
        }
    }

    function _has(Mandate memory mandate) internal pure returns (uint256) {
        return uint256(mandate.remaining) + mandate.held;
    }

    function _state(Any calldata any, bytes32 id) internal view returns (State memory) {
        return State(
            escrow.mandateOf(id),
            escrow.holdOf(id, any.nonce),
            escrow.holdOf(id, any.otherNonce),
            escrow.mandateOf(any.otherMandate),
            escrow.holdOf(any.otherMandate, any.nonce)
        );
    }

    function _word(Mandate memory mandate) private pure returns (uint256) {
        return uint256(mandate.remaining) | uint256(mandate.held) << 64 | uint256(mandate.nonceBits) << 128
            | uint256(mandate.nonceBase) << 216 | uint256(mandate.status) << 248;
    }

    function _word(HoldState memory hold) private pure returns (uint256) {
        return uint256(uint160(hold.payee)) | uint256(hold.left) << 160 | uint256(hold.captureBy) << 224;
    }

    // Without branches, each of which would be a path of its own.

    function _and(bool a, bool b) internal pure returns (bool both) {
        assembly ("memory-safe") {
            both := and(a, b)
        }
    }

    function _implies(bool a, bool b) internal pure returns (bool follows) {
        assembly ("memory-safe") {
            follows := or(iszero(a), b)
        }
    }
}
