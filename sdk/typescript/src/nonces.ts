/** The nonces of one mandate: one sequence for payments and holds, used densely. */
export class Nonces {
  #next = 0;
  /** Below `#next`, and refused for good. Used again, since the contract keeps a window of nonces. */
  #free: number[] = [];

  /** A nonce that nobody here has; `known` is the relayer's next one. */
  take(known: number): number {
    const free = this.#free.shift();
    if (free !== undefined) return free;
    const nonce = Math.max(this.#next, known);
    this.#next = nonce + 1;
    return nonce;
  }

  /** Nothing was done with it, and never will be. */
  release(nonce: number): void {
    this.#free.push(nonce);
    this.#free.sort((one, other) => one - other);
  }

  /** Others use nonces of this mandate: what was released may be theirs by now. */
  forgetReleased(): void {
    this.#free = [];
  }
}
