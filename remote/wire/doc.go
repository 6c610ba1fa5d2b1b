// Package wire is the protocol between a kedge client and a kedge server.
//
// # Two protocols on one line
//
// A connection is a byte stream in each direction: the standard input and
// output of a server process, or an SSH channel. It begins in bup's protocol,
// lines of text with replies that end in "\nok\n". A server that can do more
// lists the command "kedge" in its answer to "help". The client sends
//
//	kedge 1\n
//
// and the server answers "1\n\nok\n" with the version that both will speak, the
// lower of its own and the client's. From then on both directions carry frames and
// nothing else. A server that does not list it is bup's, and stays in that protocol.
//
// # Frames
//
// Numbers are big-endian.
//
//	 0        4      5      6      8        12             12+n
//	+--------+------+------+------+--------+--------------+
//	| n      | kind | more | 0 0  | tag    | n bytes      |
//	+--------+------+------+------+--------+--------------+
//
// n is at most 1 MiB. A message is one frame, or several of one kind and tag
// that follow each other, all but the last with more = 1. Other values of more, of
// the two zero bytes, or of kind end the connection. What a message may hold at
// most depends on its kind (Kind.Limit).
//
// The client chooses tags. Every request has one reply of kind OK or Fail with its
// tag, in the order of the requests, but for Add, which is answered only if it
// fails. A Check may have replies of kind Note before. Requests may be sent
// before earlier ones are answered. The client must always read, so that a server
// that waits until it can write does not wait for ever.
//
// # Values
//
//	uint      7 bits a byte, the lowest first, all bytes but the last with the top
//	          bit set; at most 10 bytes, shortest form only
//	int       uint of 2n for n >= 0, of -2n-1 for n < 0
//	bytes     uint length, then so many bytes
//	id        20 bytes
//	bool      one byte, 0 or 1
//	list      uint count, then so many values
//
// A message that ends too early or has bytes left over is refused. Each type of this
// package documents its values by the order of its fields.
//
// An Add of one blob "hello\n" to session 1, class Data, tag 7:
//
//	0000002d 08 00 0000 00000007   n = 45, Add
//	01 00                          session 1, Data
//	ce013625030ba8dba906f756967f9e9ca394464a
//	                               id
//	1ea9c370                       crc
//	12 36 7801010600f9ff68656c6c6f0a084b021f
//	                               bytes, 18: header of a blob of 6, zlib stream
package wire
