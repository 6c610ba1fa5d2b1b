package sshd

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// raw is an SSH client that sends whatever it is told to: curve25519-sha256 and
// aes128-gcm@openssh.com, no checks, no manners.
type raw struct {
	conn    net.Conn
	in      *bufio.Reader
	banner  string // of the server
	session []byte
	out     *gcm
	back    *gcm
}

// gcm is one direction of aes128-gcm@openssh.com.
type gcm struct {
	cipher.AEAD
	iv []byte
}

func (g *gcm) next() []byte {
	iv := append([]byte(nil), g.iv...)
	binary.BigEndian.PutUint64(g.iv[4:], binary.BigEndian.Uint64(g.iv[4:])+1)
	return iv
}

// str is a string as SSH writes it.
func str(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }

// num is a uint32.
func num(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }

// mpint is a positive integer.
func mpint(b []byte) string {
	s := strings.TrimLeft(string(b), "\x00")
	if s != "" && s[0]&0x80 != 0 {
		s = "\x00" + s
	}
	return str(s)
}

// frame is a packet before there are keys.
func frame(payload string) string {
	pad := 8 - (len(payload)+5)%8
	if pad < 4 {
		pad += 8
	}
	return num(uint32(len(payload)+1+pad)) + string([]byte{byte(pad)}) + payload + strings.Repeat("\x00", pad)
}

// kexInit is a KEXINIT with so many lists as there are.
func kexInit(lists ...string) string {
	s := "\x14" + strings.Repeat("c", 16)
	for _, l := range lists {
		s += str(l)
	}
	return s + "\x00" + num(0)
}

const (
	goodKex    = "curve25519-sha256"
	goodHost   = "ssh-ed25519"
	goodCipher = "aes128-gcm@openssh.com"
	goodMAC    = "hmac-sha2-256"
)

func usualInit() string {
	return kexInit(goodKex, goodHost, goodCipher, goodCipher, goodMAC, goodMAC, "none", "none", "", "")
}

func rawDial(addr string) (*raw, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{conn: c, in: bufio.NewReader(c)}, nil
}

func (r *raw) write(s string) error {
	_, err := io.WriteString(r.conn, s)
	return err
}

// greet exchanges the lines with versions.
func (r *raw) greet() error {
	if err := r.write("SSH-2.0-raw\r\n"); err != nil {
		return err
	}
	line, err := r.in.ReadString('\n')
	r.banner = strings.TrimRight(line, "\r\n")
	return err
}

// plain reads a packet before there are keys.
func (r *raw) plain() (string, error) {
	var head [5]byte
	if _, err := io.ReadFull(r.in, head[:]); err != nil {
		return "", err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > 1<<18 || uint32(head[4])+1 > n {
		return "", errors.New("a bad packet")
	}
	b := make([]byte, n-1)
	if _, err := io.ReadFull(r.in, b); err != nil {
		return "", err
	}
	return string(b[:len(b)-int(head[4])]), nil
}

// exchange does the key exchange.
func (r *raw) exchange() error {
	if err := r.greet(); err != nil {
		return err
	}
	mine := usualInit()
	if err := r.write(frame(mine)); err != nil {
		return err
	}
	theirs, err := r.plain()
	if err != nil {
		return err
	}
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	public := string(private.PublicKey().Bytes())
	if err := r.write(frame("\x1e" + str(public))); err != nil {
		return err
	}
	reply, err := r.plain()
	if err != nil {
		return err
	}
	var msg struct {
		Host, Public, Signature []byte
	}
	if reply[0] != 31 {
		return errors.New("no reply to the exchange")
	}
	if err := ssh.Unmarshal([]byte(reply[1:]), &msg); err != nil {
		return err
	}
	point, err := ecdh.X25519().NewPublicKey(msg.Public)
	if err != nil {
		return err
	}
	secret, err := private.ECDH(point)
	if err != nil {
		return err
	}
	k := mpint(secret)
	h := sha256.Sum256([]byte(str("SSH-2.0-raw") + str(r.banner) + str(mine) + str(theirs) +
		str(string(msg.Host)) + str(public) + str(string(msg.Public)) + k))
	r.session = h[:]
	derive := func(letter string, n int) []byte {
		d := sha256.Sum256([]byte(k + string(h[:]) + letter + string(h[:])))
		return d[:n]
	}
	if err := r.write(frame("\x15")); err != nil {
		return err
	}
	if p, err := r.plain(); err != nil || p != "\x15" {
		return errors.New("no new keys")
	}
	r.out, err = newGCM(derive("C", 16), derive("A", 12))
	if err != nil {
		return err
	}
	r.back, err = newGCM(derive("D", 16), derive("B", 12))
	return err
}

func newGCM(key, iv []byte) (*gcm, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCM(block)
	return &gcm{a, iv}, err
}

// send sends a packet.
func (r *raw) send(payload string) error {
	pad := 16 - (len(payload)+1)%16
	if pad < 4 {
		pad += 16
	}
	head := num(uint32(len(payload) + 1 + pad))
	body := string([]byte{byte(pad)}) + payload + strings.Repeat("\x00", pad)
	return r.write(string(r.out.Seal([]byte(head), r.out.next(), []byte(body), []byte(head))))
}

// receive reads a packet; keepalives and what only informs are passed over.
func (r *raw) receive() (string, error) {
	for {
		var head [4]byte
		if _, err := io.ReadFull(r.in, head[:]); err != nil {
			return "", err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > 1<<18 {
			return "", errors.New("a bad packet")
		}
		b := make([]byte, n+16)
		if _, err := io.ReadFull(r.in, b); err != nil {
			return "", err
		}
		b, err := r.back.Open(b[:0], r.back.next(), b, head[:])
		if err != nil {
			return "", err
		}
		p := string(b[1 : len(b)-int(b[0])])
		if p[0] == 7 || p[0] == 80 || p[0] == 4 || p[0] == 2 {
			continue
		}
		return p, nil
	}
}

// ask sends a packet and returns the answer.
func (r *raw) ask(payload string) (string, error) {
	if err := r.send(payload); err != nil {
		return "", err
	}
	return r.receive()
}

// secure does all that comes before the proof of a key.
func (r *raw) secure() error {
	if err := r.exchange(); err != nil {
		return err
	}
	if p, err := r.ask("\x05" + str("ssh-userauth")); err != nil || p[0] != 6 {
		return errors.New("no service")
	}
	return nil
}

// authRequest is the beginning of each request to be let in.
func authRequest(user, method string) string {
	return "\x32" + str(user) + str("ssh-connection") + str(method)
}

// offer is the offer of a key without a proof.
func offer(user, algo string, blob []byte) string {
	return authRequest(user, "publickey") + "\x00" + str(algo) + str(string(blob))
}

// proof is a request with a signature over the session by a key that may be another
// than the one it names.
func (r *raw) proof(user string, named ssh.PublicKey, by ssh.Signer, session []byte) string {
	msg := authRequest(user, "publickey") + "\x01" + str(named.Type()) + str(string(named.Marshal()))
	sig, err := by.Sign(rand.Reader, []byte(str(string(session))+msg))
	if err != nil {
		panic(err)
	}
	return msg + str(string(ssh.Marshal(sig)))
}

// login proves a key.
func (r *raw) login(key ssh.Signer) error {
	if err := r.secure(); err != nil {
		return err
	}
	p, err := r.ask(r.proof("anybody", key.PublicKey(), key, r.session))
	if err != nil {
		return err
	}
	if p[0] != 52 {
		return errors.New("not let in")
	}
	return nil
}

// open opens a session, which becomes channel 0 of the server.
func (r *raw) open(window uint32) error {
	p, err := r.ask("\x5a" + str("session") + num(7) + num(window) + num(32768))
	if err != nil {
		return err
	}
	if p[0] != 91 {
		return errors.New("no channel")
	}
	return nil
}

// request is a request on a channel.
func request(channel uint32, kind string, reply bool, rest string) string {
	b := "\x00"
	if reply {
		b = "\x01"
	}
	return "\x62" + num(channel) + str(kind) + b + rest
}

// gone waits until the server has closed the connection.
func (r *raw) gone(limit time.Duration) error {
	_ = r.conn.SetReadDeadline(time.Now().Add(limit))
	_, err := io.Copy(io.Discard, r.in)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("the connection is still there")
	}
	return nil
}
