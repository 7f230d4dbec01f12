package proxytest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// serveHTTP serves one connection: any number of absolute-form requests, or
// one CONNECT.
func (p *Proxy) serveHTTP(conn net.Conn) {
	in := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if !p.authorized(r) {
			io.Copy(io.Discard, r.Body)
			p.refuse(conn, r)
			continue
		}
		p.note(r.Method + " " + r.RequestURI)
		if r.Method == http.MethodConnect {
			p.connect(conn, in, r.Host)
			return
		}
		if !r.URL.IsAbs() {
			fmt.Fprint(conn, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		if p.forward(conn, r) != nil {
			return
		}
	}
}

func (p *Proxy) connect(conn net.Conn, in *bufio.Reader, address string) {
	upstream, err := p.dial(address)
	if err != nil {
		fmt.Fprint(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	fmt.Fprint(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	p.join(struct {
		io.Reader
		io.Writer
	}{in, conn}, conn, upstream)
}

// forward sends a request on, without what was for the proxy.
func (p *Proxy) forward(conn net.Conn, r *http.Request) error {
	upstream, err := p.dial(r.Host)
	if err != nil {
		fmt.Fprint(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return err
	}
	defer p.drop(upstream)
	r.Header.Del("Proxy-Authorization")
	r.Header.Set("Connection", "close")
	if err := r.Write(upstream); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(upstream), r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return response.Write(conn)
}

// The numbers of RFC 1928 and RFC 1929 that are used here.
const (
	socksVersion   = 5
	noAuth         = 0
	passwordAuth   = 2
	noMethod       = 0xff
	commandConnect = 1
	addressIPv4    = 1
	addressDomain  = 3
	addressIPv6    = 4
)

func (p *Proxy) serveSOCKS(conn net.Conn) {
	if p.socksAuth(conn) != nil {
		return
	}
	what, address, err := readSOCKSRequest(conn)
	if err != nil {
		return
	}
	p.note(what + " " + address)
	upstream, err := p.dial(address)
	if err != nil {
		conn.Write([]byte{socksVersion, 4, 0, addressIPv4, 0, 0, 0, 0, 0, 0}) // host unreachable
		return
	}
	conn.Write([]byte{socksVersion, 0, 0, addressIPv4, 0, 0, 0, 0, 0, 0})
	p.join(conn, conn, upstream)
}

func (p *Proxy) socksAuth(conn net.Conn) error {
	methods, err := readBlock(conn, 1)
	if err != nil {
		return err
	}
	want := byte(noAuth)
	if p.user != "" {
		want = passwordAuth
	}
	offered := false
	for _, method := range methods {
		offered = offered || method == want
	}
	if !offered {
		conn.Write([]byte{socksVersion, noMethod})
		return fmt.Errorf("proxytest: no method in %v", methods)
	}
	conn.Write([]byte{socksVersion, want})
	if want == noAuth {
		return nil
	}
	user, err := readBlock(conn, 1)
	if err != nil {
		return err
	}
	password, err := readBlock(conn, 0)
	if err != nil {
		return err
	}
	if string(user) != p.user || string(password) != p.password {
		conn.Write([]byte{1, 1})
		return fmt.Errorf("proxytest: wrong credentials")
	}
	_, err = conn.Write([]byte{1, 0})
	return err
}

// readBlock reads a byte of length, after skip others, and so many bytes.
func readBlock(from io.Reader, skip int) ([]byte, error) {
	head := make([]byte, skip+1)
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, err
	}
	block := make([]byte, head[skip])
	_, err := io.ReadFull(from, block)
	return block, err
}

func readSOCKSRequest(from io.Reader) (what, address string, err error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(from, head); err != nil {
		return "", "", err
	}
	if head[0] != socksVersion || head[1] != commandConnect {
		return "", "", fmt.Errorf("proxytest: no CONNECT: %v", head)
	}
	var host []byte
	switch head[3] {
	case addressDomain:
		what = "domain"
		host, err = readBlock(from, 0)
	case addressIPv4, addressIPv6:
		what, host = "ipv4", make([]byte, net.IPv4len)
		if head[3] == addressIPv6 {
			what, host = "ipv6", make([]byte, net.IPv6len)
		}
		_, err = io.ReadFull(from, host)
		host = []byte(net.IP(host).String())
	default:
		err = fmt.Errorf("proxytest: address of type %d", head[3])
	}
	port := make([]byte, 2)
	if err == nil {
		_, err = io.ReadFull(from, port)
	}
	return what, net.JoinHostPort(string(host), strconv.Itoa(int(binary.BigEndian.Uint16(port)))), err
}
