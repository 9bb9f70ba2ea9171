// What Go's net/http makes of plain HTTP across the mesh.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"time"
)

const size = 20_000_003

var opened = 0

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Hides the length of a body, so that it is sent in chunks.
type unsized struct{ io.Reader }

func call(client *http.Client, method, url string, body io.Reader, fields ...string) (*http.Response, []byte) {
	request := must(http.NewRequest(method, url, body))
	for at := 0; at < len(fields); at += 2 {
		request.Header.Set(fields[at], fields[at+1])
	}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !info.Reused {
			opened++
		}
	}}
	response := must(client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace))))
	defer response.Body.Close()
	return response, must(io.ReadAll(response.Body))
}

func main() {
	url := os.Args[1]
	file := fmt.Sprintf("%s/files/%d", url, size)
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 90 * time.Second}}
	_, data := call(client, "GET", file, nil)
	var sized, chunked struct {
		Sha256   string            `json:"sha256"`
		Trailers map[string]string `json:"trailers"`
	}
	_, told := call(client, "PUT", url+"/upload", bytes.NewReader(data), "Expect", "100-continue")
	must(0, json.Unmarshal(told, &sized))
	request := must(http.NewRequest("PUT", url+"/upload", unsized{bytes.NewReader(data)}))
	request.Trailer = http.Header{"X-Digest": []string{"of-the-upload"}}
	response := must(client.Do(request))
	answer := must(io.ReadAll(response.Body))
	response.Body.Close()
	if response.StatusCode != 200 {
		must(0, fmt.Errorf("chunks with a trailer: %s: %s", response.Status, answer))
	}
	must(0, json.Unmarshal(answer, &chunked))
	ranged, part := call(client, "GET", file, nil, "Range", "bytes=1000-1999")
	head, none := call(client, "HEAD", file, nil)
	unchanged, nothing := call(client, "GET", file, nil, "If-None-Match", head.Header.Get("Etag"))
	empty, void := call(client, "DELETE", url+"/empty", nil)
	denied, problem := call(client, "GET", url+"/secret", nil)
	trailing, _ := call(client, "GET", url+"/trailers", nil, "Te", "trailers")
	refused, _ := call(client, "PUT", url+"/files/1", bytes.NewReader(data), "Expect", "100-continue", "X-Refuse", "yes")
	var reason struct {
		Reason string `json:"reason"`
	}
	must(0, json.Unmarshal(problem, &reason))
	must(0, json.NewEncoder(os.Stdout).Encode(map[string]any{
		"download": digest(data), "upload": sized.Sha256, "chunked": chunked.Sha256,
		"sentTrailer": chunked.Trailers["x-digest"],
		"range":       []any{ranged.StatusCode, ranged.Header.Get("Content-Range"), digest(part)},
		"head":        []any{head.StatusCode, must(strconv.Atoi(head.Header.Get("Content-Length"))), len(none)},
		"unchanged":   []any{unchanged.StatusCode, len(nothing)},
		"empty":       []any{empty.StatusCode, len(void)},
		"denied":      []any{denied.StatusCode, reason.Reason},
		"trailer":     trailing.Trailer.Get("X-Digest"),
		"refused":     refused.StatusCode,
		"connections": opened,
	}))
}
