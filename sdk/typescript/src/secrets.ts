import type { components } from "./openapi.js";

type Secrets = components["schemas"]["CardSecrets"];

/** A card's number. Printing it, or making JSON of it, shows nothing. */
export class CardSecrets {
  readonly #secrets: Secrets;

  constructor(secrets: Secrets) {
    this.#secrets = secrets;
  }
  get number(): string {
    return this.#secrets.number;
  }
  get cvv(): string {
    return this.#secrets.cvv;
  }
  get expMonth(): string {
    return this.#secrets.exp_month;
  }
  get expYear(): string {
    return this.#secrets.exp_year;
  }
}
