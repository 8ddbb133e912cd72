// What a pod needs of the cluster, tried from inside one: names, other pods, services, the API, tokens for others.
// The arguments are the names, with ports, under which all pods of the job can be reached.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	account  = "/var/run/secrets/kubernetes.io/serviceaccount/"
	others   = "/var/run/secrets/fathom/token"
	audience = "fathom"
	port     = ":8080"
	// The peers may start later, and a new pod's name is unknown for a second or two.
	patience = 60 * time.Second
	// The peers may ask later.
	farewell = 5 * time.Second
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println("ok")
	time.Sleep(farewell)
}

func run(addresses []string) error {
	host, _ := os.Hostname()
	listener, err := net.Listen("tcp", port)
	if err != nil {
		return err
	}
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, host) }))
	if err := os.WriteFile("/tmp/probe", []byte("x"), 0o600); err != nil {
		return err
	}
	for _, address := range addresses {
		name, err := greet(address)
		if err != nil {
			return err
		}
		fmt.Printf("%s is %s\n", address, name)
	}
	return askAPI()
}

func greet(address string) (string, error) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	begin := time.Now()
	for {
		response, err := client.Get("http://" + address + "/")
		if err == nil {
			defer response.Body.Close()
			name, err := io.ReadAll(response.Body)
			return string(name), err
		}
		if time.Since(begin) > patience {
			return "", err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// askAPI uses the account's token, and lets the API judge a token that is meant for somebody else.
func askAPI() error {
	authority, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return fmt.Errorf("ca.crt has no certificate")
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	self, err := post(client, "selfsubjectreviews", map[string]any{"kind": "SelfSubjectReview"})
	if err != nil {
		return err
	}
	fmt.Printf("the API knows us as %v\n", dig(self, "status", "userInfo", "username"))
	token, err := os.ReadFile(others)
	if err != nil {
		return err
	}
	for wanted, expected := range map[string]bool{audience: true, "somebody-else": false} {
		review, err := post(client, "tokenreviews", map[string]any{
			"kind": "TokenReview",
			"spec": map[string]any{"token": string(token), "audiences": []string{wanted}},
		})
		if err != nil {
			return err
		}
		if found := dig(review, "status", "authenticated") == true; found != expected {
			return fmt.Errorf("a token for %q was judged %v for %q", audience, found, wanted)
		}
	}
	fmt.Println("tokens are good for their audience only")
	return nil
}

func post(client *http.Client, resource string, body map[string]any) (map[string]any, error) {
	body["apiVersion"] = "authentication.k8s.io/v1"
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return nil, err
	}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	url := "https://" + host + "/apis/authentication.k8s.io/v1/" + resource
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("%s: %s: %s", url, response.Status, answer)
	}
	var value map[string]any
	return value, json.Unmarshal(answer, &value)
}

func dig(value any, path ...string) any {
	for _, name := range path {
		fields, _ := value.(map[string]any)
		value = fields[name]
	}
	return value
}
