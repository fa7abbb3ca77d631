import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";

/** What a proxy does with a call: passes it on, loses its answer, never answers, resends it by itself as browsers do when
 * its answer is lost, or answers itself. */
export type Fault = "pass" | "lose" | "hold" | "resend" | { status: number; problem: object };

/** Before the relayer: passes calls on as they are, except for its faults. */
export class FaultProxy implements AsyncDisposable {
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;
  /** The calls that came, such as "POST /v1/payments". */
  readonly calls: string[] = [];

  private constructor(relayer: string, fault: (call: string, body: string) => Fault | Promise<Fault>) {
    this.#server = createServer(async (incoming, outgoing) => {
      const call = `${incoming.method} ${incoming.url?.replace(/\?.*/, "")}`;
      this.calls.push(call);
      const body = Buffer.concat(await incoming.toArray());
      this.#serve(relayer, await fault(call, body.toString()), incoming, outgoing, body);
    });
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
    });
  }

  static async before(
    relayer: string,
    fault: (call: string, body: string) => Fault | Promise<Fault> = () => "pass",
  ): Promise<FaultProxy> {
    const proxy = new FaultProxy(relayer, fault);
    await new Promise<void>((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Cuts every connection. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  #serve(relayer: string, fault: Fault, incoming: IncomingMessage, outgoing: ServerResponse, body: Buffer): void {
    if (typeof fault === "object") {
      outgoing.writeHead(fault.status, { "content-type": "application/problem+json" });
      // The relayer's, unless it is said to be another server's.
      const type = "code" in fault.problem ? `urn:stipend:problem:${fault.problem.code}` : undefined;
      outgoing.end(JSON.stringify({ type, ...fault.problem }));
      return;
    }
    this.#send(relayer, fault, incoming, outgoing, body);
  }

  #send(
    relayer: string,
    fault: Exclude<Fault, object>,
    incoming: IncomingMessage,
    outgoing: ServerResponse,
    body: Buffer,
  ): void {
    // With the caller's host, which is what it signed for.
    const { method, headers } = incoming;
    const onward = request(new URL(incoming.url ?? "/", relayer), { method, headers }, (answer) => {
      if (fault === "pass") {
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(outgoing);
      } else {
        answer.resume();
        if (fault === "resend") answer.once("end", () => this.#send(relayer, "pass", incoming, outgoing, body));
        if (fault === "lose") answer.once("end", () => incoming.socket.destroy());
      }
    });
    onward.once("error", () => incoming.socket.destroy());
    outgoing.once("close", () => onward.destroy());
    onward.end(body);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
