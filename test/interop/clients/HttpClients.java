// What Java's own HttpClient makes of plain HTTP across the mesh. Its default is HTTP/2, which without TLS begins as an
// HTTP/1.1 request with `Upgrade: h2c`.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.MessageDigest;
import java.util.HexFormat;

public class HttpClients {
  static final int SIZE = 20_000_003;

  static String sha256(byte[] data) throws Exception {
    return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(data));
  }

  static String field(byte[] json, String name) {
    var found = java.util.regex.Pattern.compile("\"" + name + "\":\"([^\"]*)\"").matcher(new String(json));
    return found.find() ? found.group(1) : "";
  }

  public static void main(String[] args) throws Exception {
    var url = args[0];
    var file = url + "/files/" + SIZE;
    var client = HttpClient.newHttpClient();
    var get = HttpRequest.newBuilder(URI.create(file)).build();
    HttpResponse<byte[]> first = client.send(get, BodyHandlers.ofByteArray());
    var data = first.body();
    var put = HttpRequest.newBuilder(URI.create(url + "/upload"));
    var sized = client.send(put.PUT(BodyPublishers.ofByteArray(data)).build(), BodyHandlers.ofByteArray());
    var stream = BodyPublishers.ofInputStream(() -> new java.io.ByteArrayInputStream(data));
    var chunked = client.send(put.PUT(stream).build(), BodyHandlers.ofByteArray());
    var waiting = put.PUT(BodyPublishers.ofByteArray(data)).expectContinue(true).build();
    var continued = client.send(waiting, BodyHandlers.ofByteArray());
    var part = HttpRequest.newBuilder(URI.create(file)).header("range", "bytes=1000-1999").build();
    var ranged = client.send(part, BodyHandlers.ofByteArray());
    var asked = HttpRequest.newBuilder(URI.create(file)).method("HEAD", BodyPublishers.noBody()).build();
    var head = client.send(asked, BodyHandlers.ofByteArray());
    var etag = head.headers().firstValue("etag").orElseThrow();
    var again = HttpRequest.newBuilder(URI.create(file)).header("if-none-match", etag).build();
    var unchanged = client.send(again, BodyHandlers.ofByteArray());
    var delete = HttpRequest.newBuilder(URI.create(url + "/empty")).DELETE().build();
    var empty = client.send(delete, BodyHandlers.ofByteArray());
    var secret = HttpRequest.newBuilder(URI.create(url + "/secret")).build();
    var denied = client.send(secret, BodyHandlers.ofByteArray());
    System.out.printf(
        "{\"version\":\"%s\",\"saw\":\"%s\",\"download\":\"%s\",\"upload\":\"%s\",\"chunked\":\"%s\",\"continued\":\"%s\","
            + "\"range\":[%d,\"%s\",\"%s\"],\"head\":[%d,%d,%d],\"unchanged\":[%d,%d],\"empty\":[%d,%d],\"denied\":[%d,\"%s\"]}%n",
        first.version(), first.headers().firstValue("x-saw").orElse("none"), sha256(data), field(sized.body(), "sha256"),
        field(chunked.body(), "sha256"), field(continued.body(), "sha256"), ranged.statusCode(),
        ranged.headers().firstValue("content-range").orElse(""), sha256(ranged.body()), head.statusCode(),
        head.headers().firstValueAsLong("content-length").orElse(-1), head.body().length, unchanged.statusCode(),
        unchanged.body().length, empty.statusCode(), empty.body().length, denied.statusCode(), field(denied.body(), "reason"));
  }
}
