// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Test} from "forge-std/Test.sol";
import {IMandateEscrow} from "../../src/interfaces/IMandateEscrow.sol";
import {Digests} from "../../src/libraries/Digests.sol";
import {PayeeAllowlist} from "../../src/libraries/PayeeAllowlist.sol";
import {RollingWindow, Window} from "../../src/libraries/RollingWindow.sol";
import {Hold, Payment, Reason, Terms} from "../../src/interfaces/Types.sol";
import {ChecksAlone} from "../mocks/ChecksAlone.sol";
import {MockUSDC} from "../mocks/MockUSDC.sol";

/// @notice The golden vectors that Solidity and Rust both check; see bindings/vectors/README.md.
contract VectorsTest is Test {
    string private json;
    IMandateEscrow private escrow;
    MockUSDC private usdc;

    function setUp() public {
        json = vm.readFile("bindings/vectors/eip712.json");
        usdc = MockUSDC(_address(".tokenDomain.domain.verifyingContract"));
        escrow = IMandateEscrow(_address(".domains[0].domain.verifyingContract"));
        vm.chainId(_uint(".domains[0].domain.chainId"));
        deployCodeTo("MockUSDCProxy.sol:MockUSDCProxy", abi.encode(new MockUSDC()), address(usdc));
        deployCodeTo("MandateEscrow.sol:MandateEscrow", abi.encode(usdc), address(escrow));
    }

    function test_typeHashes() public view {
        string[8] memory names =
            ["EIP712Domain", "Terms", "Spend", "Hold", "Revoke", "Sweep", "Roll", "ReceiveWithAuthorization"];
        for (uint256 i = 0; i < names.length; ++i) {
            string memory path = string.concat(".types.", names[i]);
            assertEq(keccak256(bytes(_string(path, ".type"))), _bytes32(path, ".typeHash"), names[i]);
        }
        assertEq(Digests.TERMS_TYPEHASH, _bytes32(".types.Terms", ".typeHash"));
        assertEq(Digests.SPEND_TYPEHASH, _bytes32(".types.Spend", ".typeHash"));
        assertEq(Digests.HOLD_TYPEHASH, _bytes32(".types.Hold", ".typeHash"));
        assertEq(Digests.REVOKE_TYPEHASH, _bytes32(".types.Revoke", ".typeHash"));
        assertEq(Digests.SWEEP_TYPEHASH, _bytes32(".types.Sweep", ".typeHash"));
        assertEq(Digests.ROLL_TYPEHASH, _bytes32(".types.Roll", ".typeHash"));
        assertEq(usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), _bytes32(".types.ReceiveWithAuthorization", ".typeHash"));
    }

    function test_domainFollowsTheChain() public {
        uint256 count = _count(".domains");
        for (uint256 i = 0; i < count; ++i) {
            string memory path = _at(".domains", i);
            vm.chainId(_uint(path, ".domain.chainId"));
            assertEq(escrow.domainSeparator(), _bytes32(path, ".separator"));
        }
    }

    function test_mandateIds_keepTheChainOfDeployment() public {
        uint256 count = _count(".mandates");
        for (uint256 i = 0; i < count; ++i) {
            Terms memory terms = _terms(string.concat(_at(".mandates", i), ".terms"));
            bytes32 id = _bytes32(_at(".mandates", i), ".mandate");
            assertEq(escrow.idOf(terms), id);
            vm.chainId(1);
            assertEq(escrow.idOf(terms), id);
            vm.chainId(31_337);
        }
    }

    /// @dev The legacy pipeline runs the initializers of all bases before any constructor, the IR pipeline those of each
    /// base with its constructor. The escrow is compiled with the latter, this with the former: the ids are the same.
    function test_mandateIds_areThoseOfEitherPipeline() public {
        bytes memory creation = abi.encodePacked(type(ChecksAlone).creationCode, abi.encode(usdc));
        vm.etch(address(escrow), creation);
        (bool ok, bytes memory runtime) = address(escrow).call("");
        assertTrue(ok);
        vm.etch(address(escrow), runtime);
        test_mandateIds_keepTheChainOfDeployment();
    }

    function test_spends() public {
        address agent = _address(".agent.address");
        uint256 key = _uint(".agent.key");
        uint256 count = _count(".spends");
        for (uint256 i = 0; i < count; ++i) {
            string memory path = _at(".spends", i);
            Payment memory payment = _payment(path);
            vm.chainId(_uint(path, ".chainId"));

            bytes32 digest = this.spendDigest(escrow.domainSeparator(), _bytes32(path, ".spend.mandate"), payment);
            assertEq(digest, _bytes32(path, ".digest"));
            assertEq(ECDSA.recover(digest, payment.r, payment.vs), agent);
            (bytes32 r, bytes32 vs) = vm.signCompact(key, digest);
            assertEq(r, payment.r);
            assertEq(vs, payment.vs);
        }
    }

    function test_holds() public {
        address agent = _address(".agent.address");
        uint256 key = _uint(".agent.key");
        uint256 count = _count(".holds");
        for (uint256 i = 0; i < count; ++i) {
            string memory path = _at(".holds", i);
            Hold memory hold = _hold(path);
            vm.chainId(_uint(path, ".chainId"));

            bytes32 digest = this.holdDigest(escrow.domainSeparator(), _bytes32(path, ".hold.mandate"), hold);
            assertEq(digest, _bytes32(path, ".digest"));
            assertEq(ECDSA.recover(digest, hold.payment.r, hold.payment.vs), agent);
            (bytes32 r, bytes32 vs) = vm.signCompact(key, digest);
            assertEq(r, hold.payment.r);
            assertEq(vs, hold.payment.vs);
        }
    }

    function test_revocations() public {
        uint256 count = _count(".revocations");
        for (uint256 i = 0; i < count; ++i) {
            string memory path = _at(".revocations", i);
            vm.chainId(_uint(path, ".chainId"));
            bytes32 digest = Digests.ofRevoke(escrow.domainSeparator(), _bytes32(path, ".mandate"));
            _assertSignedByOperator(path, digest);
        }
    }

    function test_sweeps() public {
        uint256 count = _count(".sweeps");
        for (uint256 i = 0; i < count; ++i) {
            string memory path = _at(".sweeps", i);
            vm.chainId(_uint(path, ".chainId"));
            bytes32 digest = Digests.ofSweep(
                escrow.domainSeparator(),
                _bytes32(path, ".sweep.mandate"),
                _address(string.concat(path, ".sweep.recipient")),
                uint40(_uint(path, ".sweep.deadline"))
            );
            _assertSignedByOperator(path, digest);
        }
    }

    function test_rolls() public {
        uint256 count = _count(".rolls");
        for (uint256 i = 0; i < count; ++i) {
            string memory path = _at(".rolls", i);
            vm.chainId(_uint(path, ".chainId"));
            bytes32 digest = Digests.ofRoll(
                escrow.domainSeparator(),
                _bytes32(path, ".roll.from"),
                _bytes32(path, ".roll.to"),
                uint64(_uint(path, ".roll.maxPull"))
            );
            _assertSignedByOperator(path, digest);
        }
    }

    function _assertSignedByOperator(string memory path, bytes32 digest) private view {
        assertEq(digest, _bytes32(path, ".digest"));
        bytes memory signature = vm.parseJsonBytes(json, string.concat(path, ".signature"));
        assertEq(ECDSA.recover(digest, signature), _address(".operator.address"));
    }

    function test_authorizations() public view {
        assertEq(usdc.DOMAIN_SEPARATOR(), _bytes32(".tokenDomain", ".separator"));
        uint256 count = _count(".authorizations");
        for (uint256 i = 0; i < count; ++i) {
            string memory path = _at(".authorizations", i);
            bytes32 structHash = keccak256(
                abi.encode(
                    usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                    _address(string.concat(path, ".authorization.from")),
                    _address(string.concat(path, ".authorization.to")),
                    _uint(path, ".authorization.value"),
                    _uint(path, ".authorization.validAfter"),
                    _uint(path, ".authorization.validBefore"),
                    _bytes32(path, ".authorization.nonce")
                )
            );
            bytes32 digest = keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash));
            assertEq(digest, _bytes32(path, ".digest"));
            bytes memory signature = vm.parseJsonBytes(json, string.concat(path, ".signature"));
            assertEq(ECDSA.recover(digest, signature), _address(".operator.address"));
        }
    }

    function test_payeeTrees() public view {
        uint256 count = _count(".payeeTrees");
        for (uint256 i = 0; i < count; ++i) {
            string memory path = _at(".payeeTrees", i);
            bytes32 root = _bytes32(path, ".root");
            address[] memory payees = vm.parseJsonAddressArray(json, string.concat(path, ".payees"));
            for (uint256 j = 0; j < payees.length; ++j) {
                bytes32[] memory proof =
                    vm.parseJsonBytes32Array(json, string.concat(path, ".proofs[", vm.toString(j), "]"));
                bytes32 leaf = _bytes32(path, string.concat(".leaves[", vm.toString(j), "]"));
                assertEq(keccak256(bytes.concat(keccak256(abi.encode(payees[j])))), leaf);
                assertTrue(this.allows(root, payees[j], proof));
                assertFalse(this.allows(root, address(uint160(payees[j]) ^ 1), proof));
            }
        }
    }

    function test_windows() public {
        json = vm.readFile("bindings/vectors/window.json");
        uint256 count = _count(".cases");
        for (uint256 i = 0; i < count; ++i) {
            string memory path = _at(".cases", i);
            Terms memory terms;
            terms.window = _uint32(path, ".window");
            terms.windowCap = _uint64(path, ".windowCap");
            uint256[] memory times = vm.parseJsonUintArray(json, string.concat(path, ".times"));
            uint256[] memory amounts = vm.parseJsonUintArray(json, string.concat(path, ".amounts"));
            bool[] memory expected = vm.parseJsonBoolArray(json, string.concat(path, ".fits"));
            Window register;
            for (uint256 j = 0; j < times.length; ++j) {
                vm.warp(times[j]);
                assertLe(amounts[j], type(uint64).max);
                (bool fits, Window added) = this.addToWindow(register, terms, uint64(amounts[j]));
                assertEq(fits, expected[j], string.concat(_string(path, ".name"), ", step ", vm.toString(j)));
                if (fits) register = added;
            }
        }
        assertGe(count, 10);
    }

    /// @dev Opens what must open, and says of the rest what Rust says before anything is sent.
    function test_openings() public {
        json = vm.readFile("bindings/vectors/terms.json");
        uint256 count = _count(".openings");
        for (uint256 i = 0; i < count; ++i) {
            string memory path = _at(".openings", i);
            Terms memory terms = _terms(string.concat(path, ".terms"));
            string memory refusal = _string(path, ".error");
            uint256 snapshot = vm.snapshotState();
            vm.warp(_uint(path, ".now"));
            if (terms.operator != address(0) && terms.cap != 0) {
                usdc.mint(terms.operator, terms.cap);
                vm.prank(terms.operator);
                usdc.approve(address(escrow), terms.cap);
            }
            vm.prank(terms.operator);
            try escrow.open(terms) {
                assertEq(refusal, "", _string(path, ".name"));
            } catch (bytes memory why) {
                assertEq(bytes4(why), bytes4(keccak256(bytes(refusal))), _string(path, ".name"));
            }
            vm.revertToState(snapshot);
        }
    }

    function test_reasons() public view {
        string[] memory reasons = vm.parseJsonStringArray(json, ".reasons");
        assertEq(reasons.length, uint256(type(Reason).max) + 1);
        assertEq(reasons[uint256(Reason.None)], "None");
        assertEq(reasons[uint256(Reason.UnknownMandate)], "UnknownMandate");
        assertEq(reasons[uint256(Reason.Ended)], "Ended");
        assertEq(reasons[uint256(Reason.NotSubmitter)], "NotSubmitter");
        assertEq(reasons[uint256(Reason.NotStarted)], "NotStarted");
        assertEq(reasons[uint256(Reason.Expired)], "Expired");
        assertEq(reasons[uint256(Reason.CaptureByPassed)], "CaptureByPassed");
        assertEq(reasons[uint256(Reason.CaptureByTooLate)], "CaptureByTooLate");
        assertEq(reasons[uint256(Reason.DeadlinePassed)], "DeadlinePassed");
        assertEq(reasons[uint256(Reason.AmountZero)], "AmountZero");
        assertEq(reasons[uint256(Reason.BadPayee)], "BadPayee");
        assertEq(reasons[uint256(Reason.PayeeNotAllowed)], "PayeeNotAllowed");
        assertEq(reasons[uint256(Reason.AbovePerPayment)], "AbovePerPayment");
        assertEq(reasons[uint256(Reason.InsufficientBudget)], "InsufficientBudget");
        assertEq(reasons[uint256(Reason.NonceRetired)], "NonceRetired");
        assertEq(reasons[uint256(Reason.NonceUsed)], "NonceUsed");
        assertEq(reasons[uint256(Reason.WindowExceeded)], "WindowExceeded");
        assertEq(reasons[uint256(Reason.BadSignature)], "BadSignature");
        assertEq(reasons[uint256(Reason.TransferFailed)], "TransferFailed");
    }

    // ---------------------------------------------------------------- through calldata

    function spendDigest(bytes32 domain, bytes32 mandate, Payment calldata payment) external pure returns (bytes32) {
        return Digests.ofSpend(domain, mandate, payment);
    }

    function holdDigest(bytes32 domain, bytes32 mandate, Hold calldata hold) external pure returns (bytes32) {
        return Digests.ofHold(domain, mandate, hold);
    }

    function allows(bytes32 root, address payee, bytes32[] calldata proof) external pure returns (bool) {
        return PayeeAllowlist.verify(root, payee, proof);
    }

    function addToWindow(Window register, Terms calldata terms, uint64 amount) external view returns (bool, Window) {
        return RollingWindow.add(register, terms, amount);
    }

    // ---------------------------------------------------------------- JSON

    function _terms(string memory path) private view returns (Terms memory terms) {
        terms.operator = _address(string.concat(path, ".operator"));
        terms.agent = _address(string.concat(path, ".agent"));
        terms.guardian = _address(string.concat(path, ".guardian"));
        terms.cap = _uint64(path, ".cap");
        terms.perPayment = _uint64(path, ".perPayment");
        terms.windowCap = _uint64(path, ".windowCap");
        terms.window = _uint32(path, ".window");
        terms.start = _uint40(path, ".start");
        terms.expiry = _uint40(path, ".expiry");
        terms.captureEnd = _uint40(path, ".captureEnd");
        terms.payees = _bytes32(path, ".payees");
        terms.intent = _bytes32(path, ".intent");
        terms.refundsRestoreBudget = vm.parseJsonBool(json, string.concat(path, ".refundsRestoreBudget"));
    }

    function _payment(string memory path) private view returns (Payment memory payment) {
        payment.payee = _address(string.concat(path, ".spend.payee"));
        payment.amount = _uint64(path, ".spend.amount");
        payment.nonce = _uint32(path, ".spend.nonce");
        payment.deadline = _uint40(path, ".spend.deadline");
        payment.ref = _bytes32(path, ".spend.ref");
        payment.r = _bytes32(path, ".r");
        payment.vs = _bytes32(path, ".vs");
    }

    function _hold(string memory path) private view returns (Hold memory hold) {
        hold.payment.payee = _address(string.concat(path, ".hold.payee"));
        hold.payment.amount = _uint64(path, ".hold.amount");
        hold.payment.nonce = _uint32(path, ".hold.nonce");
        hold.payment.deadline = _uint40(path, ".hold.deadline");
        hold.captureBy = _uint40(path, ".hold.captureBy");
        hold.payment.ref = _bytes32(path, ".hold.ref");
        hold.payment.r = _bytes32(path, ".r");
        hold.payment.vs = _bytes32(path, ".vs");
    }

    function _at(string memory list, uint256 i) private pure returns (string memory) {
        return string.concat(list, "[", vm.toString(i), "]");
    }

    /// @dev A list without vectors would pass whatever is asked of each.
    function _count(string memory list) private view returns (uint256 count) {
        while (vm.keyExistsJson(json, _at(list, count))) ++count;
        assertGt(count, 0, list);
    }

    function _string(string memory path, string memory key) private view returns (string memory) {
        return vm.parseJsonString(json, string.concat(path, key));
    }

    function _bytes32(string memory path, string memory key) private view returns (bytes32) {
        return vm.parseJsonBytes32(json, string.concat(path, key));
    }

    function _address(string memory path) private view returns (address) {
        return vm.parseJsonAddress(json, path);
    }

    function _uint(string memory path) private view returns (uint256) {
        return vm.parseJsonUint(json, path);
    }

    function _uint(string memory path, string memory key) private view returns (uint256) {
        return _uint(string.concat(path, key));
    }

    function _uint64(string memory path, string memory key) private view returns (uint64 value) {
        assertLe(_uint(path, key), type(uint64).max);
        value = uint64(_uint(path, key));
    }

    function _uint40(string memory path, string memory key) private view returns (uint40 value) {
        assertLe(_uint(path, key), type(uint40).max);
        value = uint40(_uint(path, key));
    }

    function _uint32(string memory path, string memory key) private view returns (uint32 value) {
        assertLe(_uint(path, key), type(uint32).max);
        value = uint32(_uint(path, key));
    }
}
