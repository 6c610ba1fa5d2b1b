package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// jsonFormat names the form of the JSON that --json prints. Fields may be added
// under the same name; one that is renamed, removed or changes its meaning
// makes the number go up. docs/json.md describes it.
const jsonFormat = "kedge-json/1"

// jsonDoc is the one JSON object that a command prints with --json:
//
//	{"format":"kedge-json/1","command":"save","result":{…},"exit":0,"warnings":0}
//
// Listings have "entries":[…] in front of "result". They are written as they
// come, one line each, so that a listing of any length needs no memory.
type jsonDoc struct {
	result  any
	listing bool // "entries":[ is written
	entries int64
}

// begin begins a listing, which may stay empty. Without --json it does nothing.
func (d *jsonDoc) begin(a *app, command string) error {
	if !a.common.json || d.listing {
		return nil
	}
	d.listing = true
	return a.print([]byte(jsonHead(command) + `,"entries":[`))
}

// entry writes one entry of a listing.
func (d *jsonDoc) entry(a *app, v any) error {
	body, err := marshal(v)
	if err != nil {
		return err
	}
	head := ",\n"
	if d.entries == 0 {
		head = "\n"
	}
	d.entries++
	return a.print(append([]byte(head), body...))
}

// end writes the rest of the object.
func (d *jsonDoc) end(a *app, command string, code int, err error, hints []string) {
	if !a.common.json {
		return
	}
	tail := jsonTail{Exit: code, Warnings: a.ui.warned(), Hints: hints}
	if err != nil {
		tail.Error = err.Error()
	}
	var b bytes.Buffer
	if d.listing {
		b.WriteString("\n]")
	} else {
		b.WriteString(jsonHead(command))
	}
	if d.result != nil {
		b.WriteString(`,"result":`)
		body, merr := marshal(d.result)
		if merr != nil {
			body = []byte("null")
		}
		b.Write(body)
	}
	body, _ := marshal(tail)
	b.WriteByte(',')
	b.Write(body[1:])
	b.WriteByte('\n')
	_, _ = a.out.Write(b.Bytes()) // an error stays with the writer: the flush that follows returns it
}

// jsonTail is the end of the object.
type jsonTail struct {
	Exit     int      `json:"exit"`
	Warnings int64    `json:"warnings"`
	Error    string   `json:"error,omitempty"`
	Hints    []string `json:"hints,omitempty"`
}

func jsonHead(command string) string {
	return `{"format":"` + jsonFormat + `","command":` + strconv.Quote(command)
}

// marshal encodes a value in ASCII alone: what is not printable in a name can
// do nothing to a terminal, and no program needs to know an encoding.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	b := bytes.TrimRight(buf.Bytes(), "\n")
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r < 0x7f:
			out = append(out, b[0])
		case r >= 0x10000:
			r -= 0x10000
			out = appendHex(append(out, '\\', 'u'), 0xd800+uint32(r>>10), 4)
			out = appendHex(append(out, '\\', 'u'), 0xdc00+uint32(r&0x3ff), 4)
		default:
			out = appendHex(append(out, '\\', 'u'), uint32(r), 4)
		}
		b = b[n:]
	}
	return out, nil
}

// jsonName is a name made of bytes. JSON knows text only: where the bytes are
// no UTF-8, Base64 holds them, and Text shows them with a replacement character.
type jsonName struct {
	Text   string `json:"name"`
	Base64 string `json:"name_base64,omitempty"`
}

func nameJSON(s string) jsonName {
	n := jsonName{Text: s}
	if !utf8.ValidString(s) {
		n.Base64 = base64.StdEncoding.EncodeToString([]byte(s))
	}
	return n
}
