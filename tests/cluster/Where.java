import java.net.InetSocketAddress;

/** Prints the address that this Java finds for each HOST:PORT. */
class Where {
    public static void main(String[] places) {
        for (String place : places) {
            String[] parts = place.split(":");
            System.out.println(new InetSocketAddress(parts[0], Integer.parseInt(parts[1])).getAddress().getHostAddress());
        }
    }
}
